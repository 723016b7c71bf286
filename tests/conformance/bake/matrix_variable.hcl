variable "VERSIONS" { default = "1,2" }
target "default" {
  name = "v${v}"
  matrix = { v = split(",", VERSIONS) }
  inherits = ["base"]
  contexts = { prev = "docker-image://x:${v}" }
}
target "base" { platforms = ["linux/amd64"] }
