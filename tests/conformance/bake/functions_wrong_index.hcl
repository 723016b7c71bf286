target "default" {
  args = {
    a = ["x"][1]
  }
}
