target "a" { contexts = { b = "target:default" } }
target "default" { contexts = { a = "target:a" } }
