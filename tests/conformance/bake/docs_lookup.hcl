variable "ENVIRONMENT" { default = "prod" }
target "default" {
  tags = [lookup({ prod = "app:1", dev = "app:dev" }, ENVIRONMENT, "app:none")]
  args = { for k, v in { a = "1", b = "2" } : upper(k) => v }
}
