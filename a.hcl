A = "1"
target "a" {
  args = { N = A }
}
