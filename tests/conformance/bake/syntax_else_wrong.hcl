target "default" {
  args = {
    a = "%{ else }x%{ endif }"
  }
}
