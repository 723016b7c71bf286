# args: --provenance=false
target "default" { attest = ["type=provenance,mode=min", "type=sbom"] }
