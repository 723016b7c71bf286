function "f" {
  params = [a]
}
target "default" {}
