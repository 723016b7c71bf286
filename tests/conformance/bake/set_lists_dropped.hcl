# args: --set default.no-cache-filter=x --set default.ulimits=nofile=1 --set default.network=none
target "default" {}
