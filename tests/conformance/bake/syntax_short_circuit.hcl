variable "L" { default = null }
target "default" {
  args = { a = L == null || length(L) == 0 }
}
