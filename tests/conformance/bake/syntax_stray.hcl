target "default" {
  tags = ["a"]
}
}
