target "default" {
  tags = ["x"]
  context = "a${null}"
}
