variable "TAG" { default = "" }
target "webapp" {
  context = "."
  dockerfile = "Dockerfile"
  tags = [
    "my-image:latest",
    notequal("", TAG) ? "my-image:${TAG}" : "",
  ]
}
group "default" { targets = ["webapp"] }
