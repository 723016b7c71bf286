variable "BASES" { default = "a,b" }
target "a" { args = { a = "1" } }
target "b" { args = { b = "1" } }
target "default" { inherits = split(",", BASES) }
