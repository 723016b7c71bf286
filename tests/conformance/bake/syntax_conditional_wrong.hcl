target "default" {
  args = {
    a = true ? "a" : ["b"]
  }
}
