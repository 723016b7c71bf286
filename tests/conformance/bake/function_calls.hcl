function "double" {
  params = [x]
  result = x * 2
}
function "quadruple" {
  params = [x]
  result = double(double(x))
}
target "default" { args = { f = quadruple(3) } }
