# args: --no-cache --pull
target "default" {}
