target "default" {
  args = { "ключ" = "значение", é = "combining e\u0301" }
}
