target "default" {
  dockerfile-inline = <<EOT
FROM alpine
RUN echo "hi" \
  && echo $${HOME} ${1 + 1}
EOT
  args = {
    indented = <<-EOT
      one
        two ${"x"}
      three
    EOT
    trimmed = <<-EOT
    %{ for x in ["a", "b"] ~}
    ${x}
    %{ endfor ~}
    EOT
  }
  context = "sub"
}
