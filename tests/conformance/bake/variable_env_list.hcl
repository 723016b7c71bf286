# env: L=a,b
variable "L" { default = ["x"] }
target "default" {}
