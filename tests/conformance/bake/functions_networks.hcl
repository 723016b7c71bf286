target "default" {
  args = {
    cidrhost = cidrhost("10.12.0.0/20", 16)
    cidrhost2 = cidrhost("10.12.0.0/20", -1)
    cidrhost6 = cidrhost("fd00:fd12:3456:7890::/72", 34)
    cidrnetmask = cidrnetmask("172.16.0.0/12")
    cidrsubnet = cidrsubnet("172.16.0.0/12", 4, 2)
    cidrsubnet6 = cidrsubnet("fd00:fd12:3456:7890::/56", 16, 162)
    cidrsubnets = jsonencode(cidrsubnets("10.1.0.0/16", 4, 4, 8, 4))
  }
}
