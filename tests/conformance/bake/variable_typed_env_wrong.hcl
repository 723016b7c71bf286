# env: A=a,b
variable "A" {
  type = list(number)
  default = [1]
}
target "default" {}
