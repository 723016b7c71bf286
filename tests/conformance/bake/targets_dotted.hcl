# args: a.b
target "a_b" {}
