target "one" {
  args = { a = "1", b = "1", c = "1" }
  tags = ["one"]
  platforms = ["linux/amd64"]
  labels = { l = "1" }
  output = ["type=docker"]
  cache-to = ["type=inline"]
}
target "two" {
  args = { b = "2", c = "2" }
  tags = ["two"]
  dockerfile = "Two"
  labels = { m = "2" }
}
target "default" {
  inherits = ["one", "two"]
  args = { c = "3" }
  context = "sub"
}
