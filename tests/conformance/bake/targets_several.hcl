# args: b a
target "a" { tags = ["a"] }
target "b" { tags = ["b"] }
