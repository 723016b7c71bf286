# args: --set a*.args.x=1 all
group "all" { targets = ["a1", "a2", "b"] }
target "a1" {}
target "a2" {}
target "b" {}
