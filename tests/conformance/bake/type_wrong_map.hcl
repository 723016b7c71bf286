target "default" {
  args = ["a"]
}
