# env: TOKEN=x
target "default" {
  secret = [
    "id=a,env=TOKEN",
    { id = "b", src = "secret_forms.hcl" },
    "type=file,id=c,source=secret_forms.hcl",
    "type=env,id=TOKEN",
    "id=TOKEN",
  ]
}
