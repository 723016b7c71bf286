target "default" {
  args = {
    a = nope("x")
  }
}
