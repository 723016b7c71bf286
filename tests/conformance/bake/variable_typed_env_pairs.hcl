# env: M=a:b,c:d N=x:1
variable "M" {
  type = map(string)
}
variable "N" {
  type = map(number)
}
target "default" {
  args = { m = jsonencode(M), n = jsonencode(N), a = M["a"] }
}
