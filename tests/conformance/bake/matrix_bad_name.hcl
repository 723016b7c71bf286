target "default" {
  name = "a.${x}"
  matrix = { x = ["a", "b"] }
}
