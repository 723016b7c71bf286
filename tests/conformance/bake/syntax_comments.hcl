# hash
// slashes
/* block
   over lines */
target "default" { # after
  tags = [ // in a list
    "a", # one
    /* two */ "b",
  ]
}
