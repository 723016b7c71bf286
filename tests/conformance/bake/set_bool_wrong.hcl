# args: --set *.pull=x
target "default" {}
