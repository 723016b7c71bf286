variable "A" { default = "x" }
target "default" {
  tags = ["b"]
  context = A.foo
}
