group "default" {
  matrix = { a = ["b"] }
  targets = ["x"]
}
