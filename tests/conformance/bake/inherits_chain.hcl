target "base" {
  args = { v = "base" }
  annotations = ["a=1"]
  secret = ["id=s,env=HOME"]
}
target "mid" {
  inherits = ["base"]
  args = { w = "mid" }
  annotations = ["b=1"]
  secret = ["id=s,env=HOME", "id=t,env=HOME"]
}
target "default" {
  inherits = ["mid"]
  annotations = ["a=1"]
  attest = ["type=sbom"]
}
