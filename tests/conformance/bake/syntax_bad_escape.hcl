target "default" {
  context = "a\qb"
}
