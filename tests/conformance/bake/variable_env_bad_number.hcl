# env: NUM=x
variable "NUM" { default = 1 }
target "default" {}
