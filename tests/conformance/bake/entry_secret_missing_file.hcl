target "default" { secret = ["id=a,src=does-not-exist"] }
