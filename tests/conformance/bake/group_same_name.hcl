# args: app
group "app" { targets = ["app", "db"] }
target "app" {}
target "db" {}
