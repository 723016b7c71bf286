variable "A" {
  default = "x"
  type = foo
}
target "default" {}
