variable "A" {
  type = number
  default = "x"
}
target "default" {}
