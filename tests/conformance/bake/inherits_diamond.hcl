target "top" {
  tags = ["top"]
  annotations = ["t=1"]
}
target "left" {
  inherits = ["top"]
  args = { side = "left" }
}
target "right" {
  inherits = ["top"]
  args = { side = "right" }
}
target "default" {
  inherits = ["left", "right"]
}
