# env: GITHUB_SHA=abc
# args: image-all
variable "GITHUB_SHA" { default = "" }
variable "REPO" { default = "user/app" }
target "docker-metadata-action" {}
target "image" {
  inherits = ["docker-metadata-action"]
  tags = [
    notequal("", GITHUB_SHA) ? "${REPO}:${GITHUB_SHA}" : "",
    "${REPO}:latest",
  ]
}
target "image-all" {
  inherits = ["image"]
  platforms = ["linux/amd64", "linux/arm/v7"]
}
