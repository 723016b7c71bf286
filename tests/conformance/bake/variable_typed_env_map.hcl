# env: A=a
variable "A" {
  type = map(string)
}
target "default" {}
