target "default" { annotations = ["nope:a=b"] }
