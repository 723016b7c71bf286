target "default" {
  labels = { a = 1.50, b = 1e3, c = true }
}
