# args: --set default.tags+=one --set default.platform+=linux/arm64 --set default.cache-from+=b --set default.output+=type=docker
target "default" {
  tags = ["zero"]
  platforms = ["linux/amd64"]
  cache-from = ["a"]
  output = ["type=image"]
}
