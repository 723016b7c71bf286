target "default" {
  tags = ["a"]
}
