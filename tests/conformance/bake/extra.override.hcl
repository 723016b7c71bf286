variable "TAG" { default = "second" }
target "app" {
  args = { b = "2" }
  dockerfile = "Other"
}
target "default" {}
