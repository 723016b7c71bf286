target "default" {
  args = {
    a = formatdate("YYYY-MM-DD'T'hh:mm:ssZ", "2025-01-02T03:04:05Z")
    b = formatdate("EEEE, DD MMMM YY h:mm AA (ZZZ) 'o''clock'", "2025-11-22T15:04:05+02:00")
    c = formatdate("EEE D MMM M H aa ZZZZ ZZZZZ", "2025-11-02T00:04:05-05:30")
    d = timeadd("2025-01-02T03:04:05Z", "1h30m")
    e = timeadd("2025-01-02T03:04:05+01:00", "-10m5s")
    f = timeadd("2025-01-02T03:04:05Z", "1.5h")
  }
}
