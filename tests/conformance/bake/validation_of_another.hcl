# env: B=x
variable "A" {
  default = "a"
  validation {
    condition = A == B
    error_message = "A must be B, not ${B}"
  }
}
variable "B" { default = "a" }
target "default" {}
