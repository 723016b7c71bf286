target "default" {
  args = { 1 = "a", "${1 + 1}" = "b", true = "c" }
}
