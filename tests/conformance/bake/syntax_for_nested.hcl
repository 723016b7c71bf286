target "default" {
  tags = flatten([for a in ["x", "y"] : [for b in ["1", "2"] : "${a}:${b}"]])
}
