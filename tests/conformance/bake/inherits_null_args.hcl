target "a" {
  args = { x = "1", y = "2" }
  labels = { x = "1" }
  contexts = { c = "docker-image://a" }
}
target "default" {
  inherits = ["a"]
  args = { x = null, y = "" }
  labels = { x = null }
  contexts = { c = "" }
}
