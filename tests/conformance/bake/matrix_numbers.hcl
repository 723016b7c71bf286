target "default" {
  name = "n${n}"
  matrix = { n = range(3) }
  args = { n = n + 1 }
}
