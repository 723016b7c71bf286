target "a" { inherits = ["default"] }
target "default" { inherits = ["a"] }
