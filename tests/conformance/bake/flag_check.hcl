# args: --check
target "default" {}
