target "default" {
  foo = 1
  bar = undefined_thing
}
