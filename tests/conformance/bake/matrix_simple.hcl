target "default" {
  name = "app-${tgt}"
  matrix = { tgt = ["a", "b"] }
  target = tgt
  tags = ["app:${tgt}"]
}
