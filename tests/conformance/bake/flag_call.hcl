# args: --call=outline
target "default" {}
