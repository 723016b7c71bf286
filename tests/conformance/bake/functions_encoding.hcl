target "default" {
  args = {
    base64encode = base64encode("héllo")
    base64decode = base64decode("aGVsbG8=")
    csvdecode = jsonencode(csvdecode("a,b\n1,\"x,y\"\n2,z"))
    jsondecode = jsonencode(jsondecode("{\"b\": [1.0, 2.5, null, true], \"a\": {}}"))
    jsonencode = jsonencode({ b = "<&>", a = "é\n", c = null, d = 1.50 })
    md5 = md5("a")
    sha1 = sha1("a")
    sha256 = sha256("a")
    sha512 = sha512("a")
    uuidv5 = uuidv5("dns", "example.com")
    uuidv5b = uuidv5("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "example.com")
    homedir = homedir()
  }
}
