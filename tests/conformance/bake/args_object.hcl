target "default" {
  args = { a = {} }
}
