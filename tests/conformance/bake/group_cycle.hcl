# args: a
group "a" { targets = ["b", "t"] }
group "b" { targets = ["a", "u"] }
target "t" {}
target "u" {}
