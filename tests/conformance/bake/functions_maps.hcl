target "default" {
  args = {
    keys = jsonencode(keys({ b = 1, a = "x" }))
    values = jsonencode(values({ b = 1, a = "x" }))
    lookup = lookup({ a = "1" }, "a", "2")
    lookup2 = lookup({ a = "1" }, "b", "2")
    merge = jsonencode(merge({ a = 1, b = 2 }, { b = "x", c = [] }))
    zipmap = jsonencode(zipmap(["a", "b"], [1, "x"]))
  }
}
