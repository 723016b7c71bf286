variable "A" {
  type = number
  default = null
}
target "default" { args = { a = jsonencode(A) } }
