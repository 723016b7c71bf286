# args: nope
target "a" {}
