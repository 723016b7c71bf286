target "default" {
  cache-from = ["ref=a,mode=x"]
}
