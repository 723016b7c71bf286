# files: extra.override.hcl
variable "TAG" { default = "first" }
group "default" { targets = ["app"] }
target "app" {
  tags = ["app:${TAG}"]
  args = { a = "1" }
}
