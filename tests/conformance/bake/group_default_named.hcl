# args: default a
group "default" { targets = ["b"] }
target "a" {}
target "b" {}
