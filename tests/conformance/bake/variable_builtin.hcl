variable "BAKE_CMD_CONTEXT" { default = "mine" }
target "default" {
  context = BAKE_CMD_CONTEXT
  platforms = [BAKE_LOCAL_PLATFORM]
}
