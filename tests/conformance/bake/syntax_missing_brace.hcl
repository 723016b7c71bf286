target "default"
  tags = ["a"]
}
