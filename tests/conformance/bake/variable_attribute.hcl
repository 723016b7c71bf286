# env: FOO=env BAR=env
FOO = "global"
BAR = "${FOO}-x"
variable "BAZ" { default = BAR }
target "default" { tags = [FOO, BAR, BAZ] }
