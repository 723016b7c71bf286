target "default" {
  args = { a = 1 / 0 }
}
