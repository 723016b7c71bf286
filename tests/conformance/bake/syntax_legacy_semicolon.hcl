target "default" {
  tags = ["a"];
}
