target "default" {
  args = {
    a = [for x in "abc" : x]
  }
}
