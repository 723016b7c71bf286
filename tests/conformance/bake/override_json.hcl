# files: extra.override.json
target "default" {
  tags = ["a"]
  args = { x = "hcl" }
}
