target "default" {
  secret = ["id=a,foo=b"]
}
