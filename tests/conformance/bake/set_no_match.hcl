# args: --set nope.context=x
target "default" {}
