target "default" {
  tags =
}
