# args: --set *.pull=true --set *.no-cache=false
target "default" {}
