target "default" {
  tags = ["x"]
  args = { a = NOPE }
}
