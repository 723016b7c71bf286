target "default" {
  description = "all of it"
  annotations = ["index:a=b", "index,manifest:c=d"]
  attest = ["type=provenance,mode=max", { type = "sbom" }, "type=provenance,disabled=true"]
  args = { a = 1, b = true, c = null, d = "$${x}", e = "" }
  cache-from = ["user/app:cache", "type=local,src=cases", { type = "gha", scope = "a" }]
  cache-to = ["type=local,dest=y,mode=max", { type = "inline" }]
  call = "check"
  context = "./dir/"
  contexts = { a = "target:b", c = "", d = "docker-image://alpine" }
  dockerfile = "a.Dockerfile"
  dockerfile-inline = "FROM $${x}"
  entitlements = ["network.host"]
  extra-hosts = { a = "1.2.3.4" }
  labels = { a = null, b = "", c = "%%{x}" }
  network = "host"
  no-cache = true
  no-cache-filter = ["a", "b", "a"]
  output = ["type=image,push=true", "out", { type = "oci", dest = "x.tar" }]
  platforms = ["linux/amd64", "linux/arm64"]
  pull = false
  secret = [{ id = "c", env = "D" }, "type=env,id=x", "type=env,id=q,src=R"]
  ssh = ["default"]
  shm-size = "64m"
  tags = ["a", "b:1", "a"]
  target = "stage"
  ulimits = ["nofile=1:2"]
}
target "b" {}
