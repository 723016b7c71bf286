# env: TAG=env NUM=5 FLAG=false EMPTY=given
variable "TAG" { default = "latest" }
variable "NUM" { default = 1 }
variable "FLAG" { default = true }
variable "EMPTY" {}
variable "UNUSED" { default = "x" }
target "default" {
  tags = ["a:${TAG}"]
  args = { n = NUM + 1, f = FLAG ? "yes" : "no", e = EMPTY }
}
