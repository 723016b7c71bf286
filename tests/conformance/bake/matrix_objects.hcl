target "default" {
  name = "${item.tgt}-${item.version}"
  matrix = {
    item = [
      { tgt = "a", version = "1" },
      { tgt = "b", version = "2" },
    ]
  }
  args = item
}
