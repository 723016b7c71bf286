# args: default a
target "default" {
  name = "x-${x}"
  matrix = { x = [] }
}
target "a" {}
