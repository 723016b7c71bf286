# env: SOURCE_DATE_EPOCH=1
target "default" { args = { a = "1" } }
