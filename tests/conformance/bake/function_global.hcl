# env: V=env
variable "V" { default = "v" }
function "f" {
  params = []
  result = "${V}!"
}
target "default" { args = { f = f() } }
