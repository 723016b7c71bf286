target "default" {
  output = ["out/dir", "type=docker", "type=local,dest=out/dir", { type = "docker" }, "Type=tar,dest=x.tar"]
}
