# env: FLAG=yes
variable "FLAG" { default = true }
target "default" {}
