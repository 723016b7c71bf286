variable "S" {
  type = string
  default = 1
}
variable "N" {
  type = number
  default = "2"
}
variable "B" {
  type = bool
  default = "true"
}
variable "L" {
  type = list(number)
  default = ["1", 2]
}
variable "M" {
  type = map(string)
  default = { a = 1 }
}
variable "O" {
  type = object({ a = string, b = optional(number) })
  default = { a = "x" }
}
variable "T" {
  type = tuple([string, number])
  default = ["a", "1"]
}
variable "X" {
  type = set(string)
  default = ["b", "a", "b"]
}
variable "Y" {
  type = any
  default = ["b", 1]
}
variable "Z" {
  type = string
}
target "default" {
  args = {
    s = jsonencode(S), n = jsonencode(N), b = jsonencode(B), l = jsonencode(L), m = jsonencode(M)
    o = jsonencode(O), t = jsonencode(T), x = jsonencode(X), y = jsonencode(Y), z = jsonencode(Z)
  }
}
