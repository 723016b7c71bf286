target "default" {
  args = {
    a = jsonencode(range(2000))
  }
}
