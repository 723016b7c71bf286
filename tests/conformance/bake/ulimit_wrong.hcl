target "default" { ulimits = ["nope=1"] }
