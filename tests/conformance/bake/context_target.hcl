target "base" {
  output = ["type=image"]
  tags = ["base"]
  entitlements = ["security.insecure"]
}
target "default" {
  contexts = { base = "target:base" }
}
