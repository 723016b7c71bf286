target "default" {
  cache-from = ["a,b", "type=registry,ref=a", { type = "registry", ref = "c" }, "a"]
}
