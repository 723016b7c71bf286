variable "A" {
  default = "bad"
  validation {
    condition = A == "good"
    error_message = "must be good"
  }
}
target "default" { tags = [A] }
