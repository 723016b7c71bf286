# args: a b c d --set *.load=true
target "a" {}
target "b" { output = ["type=docker"] }
target "c" { output = ["type=registry"] }
target "d" { output = ["type=local,dest=x"] }
