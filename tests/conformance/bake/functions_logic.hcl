target "default" {
  args = {
    and = and(true, false)
    or = or(true, false)
    not = not(true)
    equal = equal(1, "1")
    equal2 = equal([1], [1])
    notequal = notequal("a", "b")
    gt = greaterthan(2, 1)
    ge = greaterthanorequalto(1, 1)
    lt = lessthan(2, 1)
    le = lessthanorequalto(1, 1)
    coalesce = coalesce(null, "a", "b")
    try = try(UNKNOWN, jsondecode("{"), "fallback")
    can = can(jsondecode("{"))
    can2 = can(1 + 1)
    convert = jsonencode(convert(["1", "2"], list(number)))
    convert2 = jsonencode(convert({ a = 1 }, map(string)))
  }
}
