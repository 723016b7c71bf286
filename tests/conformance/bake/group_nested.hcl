# args: all
group "all" { targets = ["web", "c"] }
group "web" {
  description = "the web"
  targets = ["b", "a"]
}
target "a" {}
target "b" {}
target "c" {}
