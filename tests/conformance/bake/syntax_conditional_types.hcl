target "default" {
  args = {
    a = jsonencode(true ? 1 : "x")
    b = jsonencode(false ? ["a"] : ["b", "c"])
    c = jsonencode(true ? { a = 1 } : { b = "2" })
    d = jsonencode(true ? null : "x")
  }
}
