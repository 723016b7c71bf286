function "up" {
  params = [x]
  result = upper(x)
}
variable "A" { default = up("a") }
target "default" { tags = [A] }
