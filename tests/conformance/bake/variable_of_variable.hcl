# env: A=env
variable "B" { default = "${A}-b" }
variable "A" { default = "a" }
target "default" { tags = [B] }
