target "default" {
  args = { a = "1" + "2", b = "3" * 2, c = 1 == "1", d = !"true" }
}
