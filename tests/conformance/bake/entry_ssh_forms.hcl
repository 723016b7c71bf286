target "default" { ssh = [{ id = "default" }, "default", { id = "k" }] }
