target "default" {
  context = "./a/../b//c/"
  contexts = { x = "./y/" }
}
