# args: --provenance=mode=max --sbom=true
target "default" { attest = ["type=provenance,mode=min"] }
