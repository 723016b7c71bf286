# args: --set base.args.x=set
target "base" { args = { x = "base", y = "base" } }
target "default" { inherits = ["base"] }
