target "default" {
  args = null
  context = null
  contexts = null
  tags = null
  target = null
  pull = null
  no-cache = null
  output = null
  cache-from = null
  labels = null
  platforms = null
  dockerfile = null
  secret = null
  ssh = null
  attest = null
}
