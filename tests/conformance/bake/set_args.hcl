# env: FROM_ENV=value
# args: --set default.args.a=1 --set *.args.b=x=y --set default.args.FROM_ENV --set default.args.NOT_SET --set default.labels.l.m=1
target "default" { args = { a = "0", c = "2" } }
