# env: O_JSON={"a":"y","c":[{"d":"1","z":1}]}
variable "O" {
  type = object({ a = string, b = optional(number), c = optional(list(object({ d = string }))) })
  default = { a = "x" }
}
variable "M" {
  type = map(object({ e = bool }))
  default = {}
}
target "default" {
  args = { o = jsonencode(O), m = jsonencode(M), b = O.b == null ? "none" : "some" }
}
