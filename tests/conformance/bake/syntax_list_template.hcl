target "default" {
  context = "a${["x"]}"
}
