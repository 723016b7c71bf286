variable "TAG" { default = "latest" }
variable "EMPTY" {}
variable "NULL" { default = null }
target "default" {
  tags = ["a:${TAG}"]
  args = { e = EMPTY, n = NULL, j = jsonencode(NULL), k = jsonencode(EMPTY) }
}
