target "default" {
  args = {
    arithmetic = 1 + 2 * 3 - 4 / 2 % 3
    negative = -2 - -3
    compare = 1 < 2 && 2 <= 2 && 3 > 2 && 3 >= 3 && 1 == 1 && 1 != 2
    or = false || true
    not = !false
    conditional = 1 > 2 ? "a" : 2 > 1 ? "b" : "c"
    paren = (1 + 2) * 3
    index = ["a", "b"][1]
    object = { a = "x", "b" = "y", (upper("c")) = "z" }.C
    splat = join(",", [{ n = "1" }, { n = "2" }].*.n)
    splat2 = join(",", [{ n = ["1"] }, { n = ["2"] }][*].n[0])
    for = join(",", [for k, v in { b = 2, a = 1 } : "${k}${v}" if v > 0])
    forobj = jsonencode({ for x in ["a", "b"] : x => upper(x) })
    group = jsonencode({ for x in ["aa", "ab", "b"] : substr(x, 0, 1) => x... })
    expand = max([1, 5, 3]...)
    legacy = ["x", "y"].0
    big = 123456789012345678901234567890
    exp = 1.5e3
    fraction = 0.1 + 0.2
    div = 10 / 4
  }
}
