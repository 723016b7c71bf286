target "default" {
  context = "x"
  dockerfile = "${target.default.context}/Dockerfile"
}
