# args: all
target "_common" {
  args = { COMMON = "1" }
  platforms = ["linux/amd64"]
}
target "all" {
  name = "x-${a}-${b}"
  inherits = ["_common"]
  matrix = {
    a = ["1", "2"]
    b = ["p", "q"]
  }
  args = { AB = "${a}${b}" }
  output = b == "p" ? ["type=docker"] : []
}
