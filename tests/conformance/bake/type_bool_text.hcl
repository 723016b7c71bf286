target "default" {
  pull = "true"
  no-cache = "0"
  tags = [1, true, "a"]
  context = 12
}
