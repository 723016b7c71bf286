target "default" {
  attest = [
    { type = "provenance", mode = "max" },
    { type = "sbom", generator = "x", disabled = "true" },
  ]
}
