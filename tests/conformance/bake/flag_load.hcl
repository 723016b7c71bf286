# args: --load
target "default" { output = ["type=registry"] }
