# args: --set default.output=type=local,dest=out --set default.cache-to=type=inline --set default.secrets=id=a,env=HOME --set default.attest=type=sbom --set default.annotations=a=b
target "default" {
  output = ["type=image"]
  attest = ["type=provenance,mode=min"]
  annotations = ["x=y"]
}
