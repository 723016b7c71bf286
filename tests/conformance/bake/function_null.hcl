function "f" {
  params = [x]
  result = x == null ? "nothing" : x
}
target "default" { args = { a = f(null), b = f("x") } }
