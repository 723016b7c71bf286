target "default" {
  args = {
    a = jsonencode(jsondecode("{"))
  }
}
