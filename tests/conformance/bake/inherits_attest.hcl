target "a" {
  attest = ["type=provenance,mode=min", "type=sbom"]
  ssh = ["default"]
}
target "default" {
  inherits = ["a"]
  attest = ["type=provenance,mode=max"]
}
