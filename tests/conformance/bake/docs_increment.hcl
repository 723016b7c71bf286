function "increment" {
  params = [number]
  result = number + 1
}
group "default" { targets = ["webapp"] }
target "webapp" { args = { buildno = "${increment(123)}" } }
