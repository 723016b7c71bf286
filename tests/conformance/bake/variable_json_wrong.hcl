# env: N_JSON=true
variable "N" {
  type = number
}
target "default" {}
