target "default" { context = "cwd://sub/dir" }
