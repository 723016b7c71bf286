target "default" {
  context = "."
  pull = "maybe"
}
