# args: --set default.context
target "default" {}
