target "default" {
  context = <<EOT
abc
}
