target "a" {
  args = { v = "1" }
  tags = ["t:${target.a.args.v}"]
}
target "default" {
  args = target.a.args
  tags = [for t in target.a.tags : "x/${t}"]
  context = target.a.dockerfile == null ? "none" : "some"
}
