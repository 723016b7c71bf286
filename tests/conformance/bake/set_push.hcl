# args: a b c d e --set *.push=true
target "a" { tags = ["a"] }
target "b" { output = ["type=docker"] }
target "c" { output = ["type=image"] }
target "d" { output = ["type=local,dest=x"] }
target "e" { output = ["type=registry"] }
