function "tag" {
  params = [name, version]
  result = ["reg/${name}:${version}", "reg/${name}:latest"]
}
target "default" { tags = tag("app", "1") }
