target "default" {
  tags = [
    for x in [
      "a",
      "b"
    ] :
    "${x}"
  ]
  args = {
    a = (
      1 +
      2
    )
    b = join(
      "-",
      ["x", "y"],
    )
  }
}
