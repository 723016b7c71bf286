# args: --set default.foo=x
target "default" {}
