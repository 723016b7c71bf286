"""--format: values and mistakes; test_integration_templates.py has the language."""

from __future__ import annotations

import pytest

from shipline.cli.template import render
from shipline.errors import UsageError

VALUE = {
    "Name": "a/b",
    "Manifest": {"digest": "sha256:1", "manifests": [{"digest": "d1"}, {"digest": "d2"}]},
    "Image": lambda: {"linux/amd64": lambda: {"config": {"Env": ["A=1", "B=2"]}}},
    "Empty": [],
    "Yes": True,
    "None": None,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "a/b"),
        ("x{{ .Manifest.Digest }}y", "xsha256:1y"),
        ("{{json .Name}}", '"a/b"'),
        ('{{json (index .Image "linux/amd64").config.Env}}', '[\n  "A=1",\n  "B=2"\n]'),
        ('{{json (index .Image "linux/amd64")}}', None),
        ("{{.Name | json}}", '"a/b"'),
        ("{{index .Manifest.Manifests 1 | json | len}}", "20"),
        ('{{range .Manifest.Manifests}}{{.Digest}}{{"\\n"}}{{end}}', "d1\nd2\n"),
        ("{{range .Empty}}a{{else}}none{{end}}", "none"),
        ("{{if .Yes}}yes{{else}}no{{end}}{{if .Empty}}yes{{end}}", "yes"),
        ("{{if .Empty}}a{{else}}{{if .Yes}}b{{end}}{{end}}", "b"),
        ("a  {{- .Name -}}  b", "aa/bb"),
        ("{{len .Manifest.Manifests}} {{upper .Name}}", "2 A/B"),
        ('{{join (index .Image "linux/amd64").config.Env `,`}}', "A=1,B=2"),
        (
            "{{.Yes}} {{.None}} {{.Manifest.Manifests}}",
            "true <no value> [map[digest:d1] map[digest:d2]]",
        ),
        ("{{.Name -}}  {{.Name}}", "a/ba/b"),
        ("no actions", "no actions"),
    ],
)
def test_templates(template: str, text: str | None) -> None:
    found = render(template, VALUE)
    assert text is None or found == text


def test_json_is_indented_as_docker_does() -> None:
    assert render("{{json .Manifest}}", {"Manifest": {"a": [1]}}) == '{\n  "a": [\n    1\n  ]\n}'


def test_what_is_not_named_is_never_made() -> None:
    def costly() -> object:
        raise AssertionError("fetched")

    assert render("{{.Name}}", {"Name": "n", "Image": costly}) == "n"


@pytest.mark.parametrize(
    "template",
    [
        "{{.Missing}}",
        "{{.Name.More}}",
        "{{frob .Name}}",
        "{{json}}",
        "{{.Name",
        "{{end}}",
        "{{range .Empty}}",
        "{{if .Yes}}{{else}}{{else}}{{end}}",
        "{{(.Name}}",
        "{{.Name .Name}}",
        "{{.Name)}}",
        "{{}}",
        "{{index .Manifest.Manifests 9}}",
        '{{"\\q"}}',
        "{{range .Name}}{{end}}",
        "{{len .Yes}}",
        "{{.Name | }}",
        "{{@}}",
        '{{define "a"}}{{template "a"}}{{end}}{{template "a"}}',
        "{{if 1}}" * 5000,
        "{{" + "(" * 5000,
    ],
)
def test_mistakes_are_usage_errors(template: str) -> None:
    with pytest.raises(UsageError):
        render(template, VALUE)
