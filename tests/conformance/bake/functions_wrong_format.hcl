target "default" {
  args = {
    a = format("%d", "x")
  }
}
