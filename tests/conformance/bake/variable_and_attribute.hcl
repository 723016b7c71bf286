# env: FOO=env
variable "FOO" { default = "variable" }
FOO = "attribute"
target "default" { tags = [FOO] }
