target "base" { dockerfile = "baseapp.Dockerfile" }
target "app" {
  contexts = {
    alpine = "docker-image://alpine:3.13"
    src = "../path/to/source"
    baseapp = "target:base"
  }
}
group "default" { targets = ["app"] }
