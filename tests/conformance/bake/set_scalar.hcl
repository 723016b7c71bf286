# args: --set default.context=other --set default.dockerfile=X --set default.target=st
target "default" { context = "a" }
