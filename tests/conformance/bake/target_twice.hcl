target "default" {
  tags = ["one"]
  args = { a = "1", b = "1" }
  annotations = ["x=1"]
  cache-from = ["a"]
  no-cache-filter = ["s"]
}
target "default" {
  tags = ["two"]
  args = { b = "2", c = "2" }
  annotations = ["y=1", "x=1"]
  cache-from = ["b", "a"]
  no-cache-filter = ["t"]
}
