target "default" {
  args = {
    a = upper(["x"])
  }
}
