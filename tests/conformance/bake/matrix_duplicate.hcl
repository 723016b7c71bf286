target "default" {
  name = "same"
  matrix = { x = ["a", "b"] }
}
