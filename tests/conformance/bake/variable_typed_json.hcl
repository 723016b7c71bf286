# env: L=9 L_JSON=[1,2]
variable "L" {
  type = list(number)
  default = [3]
}
target "default" { args = { l = jsonencode(L) } }
