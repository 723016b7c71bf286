# env: L=1,2 M_JSON={"a":"b"} O_JSON={"a":"y","b":3} T=x,5 X=q,p,q N=7 B=0 S=hello
variable "S" { type = string }
variable "N" { type = number }
variable "B" { type = bool }
variable "L" { type = list(number) }
variable "M" { type = map(string) }
variable "O" { type = object({ a = string, b = optional(number) }) }
variable "T" { type = tuple([string, number]) }
variable "X" { type = set(string) }
target "default" {
  args = {
    s = jsonencode(S), n = jsonencode(N), b = jsonencode(B), l = jsonencode(L), m = jsonencode(M)
    o = jsonencode(O), t = jsonencode(T), x = jsonencode(X)
  }
}
