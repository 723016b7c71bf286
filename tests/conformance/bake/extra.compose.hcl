variable "TAG" { default = "1" }
target "app" {
  args = { B = "2" }
  tags = ["app:${TAG}"]
}
group "default" { targets = ["app"] }
