target "default" {
  context = "https://github.com/docker/buildx.git#main:sub"
  dockerfile = "./sub/../Dockerfile"
}
