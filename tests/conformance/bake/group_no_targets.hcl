group "default" {
  description = "x"
}
