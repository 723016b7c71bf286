function "all" {
  params = [first]
  variadic_params = rest
  result = "${first}-${join("+", rest)}-${length(rest)}"
}
target "default" { tags = [all("a"), all("a", "b", "c")] }
