# args: --set default.tags=one --set default.tags=two --set default.platform=linux/arm64
target "default" {
  tags = ["zero"]
  platforms = ["linux/amd64"]
  no-cache-filter = ["y"]
}
