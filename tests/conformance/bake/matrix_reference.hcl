target "b" {
  name = "b-${v}"
  matrix = { v = ["1", "2"] }
  tags = ["b:${v}"]
}
target "default" {
  tags = target.b-2.tags
}
