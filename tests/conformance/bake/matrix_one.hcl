target "default" {
  matrix = { x = ["only"] }
  tags = ["a:${x}"]
}
