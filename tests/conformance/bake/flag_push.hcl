# args: --push
target "default" {}
