variable "A" { default = "1" }
variable "A" { default = "2" }
target "default" { tags = [A] }
