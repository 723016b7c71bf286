function "f" {
  params = [a, b]
  result = a
}
target "default" {
  tags = [f("x")]
}
