# args: a default
target "a" { output = ["type=image"] }
target "default" { contexts = { a = "target:a" } }
