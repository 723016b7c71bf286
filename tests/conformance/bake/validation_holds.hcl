variable "A" {
  default = "good"
  validation {
    condition = A != ""
    error_message = "must not be empty"
  }
  validation {
    condition = contains(["good", "better"], A)
    error_message = "must be good"
  }
}
target "default" { tags = [A] }
