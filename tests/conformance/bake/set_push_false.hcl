# args: a b c --set *.push=false
target "a" { output = ["type=registry", "type=docker"] }
target "b" { output = ["type=image,push=true"] }
target "c" { output = ["type=local,dest=x"] }
