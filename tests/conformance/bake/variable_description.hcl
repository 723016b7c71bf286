variable "A" {
  description = "what it is"
  default = "x"
}
target "default" { tags = [A] }
