target "a" {}
target "b" { contexts = { a = "target:a" } }
target "default" { contexts = { b = "target:b", a = "target:a" } }
