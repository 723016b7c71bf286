# env: N=given
variable "N" { default = null }
target "default" { args = { n = N } }
