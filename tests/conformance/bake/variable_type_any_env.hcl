# env: A=x
variable "A" {
  type = any
}
target "default" {}
