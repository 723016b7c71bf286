target "a" { platforms = ["linux/amd64"] }
target "default" {
  platforms = ["linux/amd64", "linux/arm64"]
  contexts = { a = "target:a" }
}
