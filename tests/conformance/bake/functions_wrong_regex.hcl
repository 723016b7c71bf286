target "default" {
  args = {
    a = regex("(", "x")
  }
}
