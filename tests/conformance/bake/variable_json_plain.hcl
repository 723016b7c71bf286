# env: N=1 N_JSON=2 S_JSON="x" B_JSON=true U_JSON=3 V_JSON=["a"]
variable "N" {
  type = number
}
variable "S" {
  type = string
}
variable "B" {
  type    = bool
  default = false
}
variable "U" {
  default = 1
}
variable "V" {}
target "default" {
  args = {
    n = jsonencode(N)
    s = jsonencode(S)
    b = jsonencode(B)
    u = jsonencode(U)
    v = jsonencode(V)
  }
}
