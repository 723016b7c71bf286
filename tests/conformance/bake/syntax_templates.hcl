variable "L" { default = ["a", "b"] }
target "default" {
  args = {
    plain = "a$b%c"
    escaped = "$${x} %%{y} \" \\ \n \t \u00e9 \U0001F600"
    nested = "${"inner ${1 + 1}"}"
    only = "${1}"
    if = "%{ if length(L) > 1 }many%{ else }one%{ endif }"
    for = "%{ for x in L }<${x}>%{ endfor }"
    forkey = "%{ for i, x in L }${i}=${x};%{ endfor }"
    trim = "a   ${~ 1 ~}   b"
    list = join(",", [for x in L : "${x}!"])
    mixed = "x${true}${1.5}"
  }
}
