target "default" {
  args = {
    a = byteslen("x")
  }
}
