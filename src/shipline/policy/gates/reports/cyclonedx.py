"""CycloneDX bills of material in JSON, versions 1.2 to 1.7."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote

from shipline.policy.gates.reports.fields import Fields
from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import Report, ReportError, Subject, Tool, moment
from shipline.policy.gates.reports.sbom import Component, Sbom

_NOT_COUNTED = ("file", "operating-system")


def parse(source: BinaryIO) -> Report:
    """Packages, nested ones included; files and the operating system are not counted."""
    reader = JsonReader(source)
    head: dict[str, object] = {}
    components: list[Component] = []
    for key in reader.members():
        if key == "components" and reader.kind() != "n":
            for _ in reader.elements():
                components += _walk(Fields(reader.value(), "a component"))
        elif key in ("bomFormat", "specVersion", "metadata", "compositions"):
            head[key] = reader.value()
    reader.finish()
    value = Fields(head, "the document")
    if value.text("bomFormat") != "CycloneDX":
        raise ReportError("not a CycloneDX document")
    value.name("specVersion")
    metadata = value.child("metadata")
    partial = [one.text("aggregate") for one in value.children("compositions")]
    gaps = [
        f"the document calls itself {word}" for word in partial if word.startswith("incomplete")
    ]
    return Report(
        "cyclonedx",
        Sbom(tuple(components)),
        _subject(metadata.child("component")),
        moment(metadata.text("timestamp")),
        _tool(metadata),
        tuple(dict.fromkeys(gaps)),
    )


def _walk(value: Fields) -> Iterator[Component]:
    if value.name("type") not in _NOT_COUNTED:
        yield Component(
            "/".join(filter(None, (value.text("group"), value.name("name")))),
            value.text("version"),
            value.text("purl"),
            tuple(filter(None, map(_license, value.children("licenses")))),
        )
    for child in value.children("components"):
        yield from _walk(child)


def _license(value: Fields) -> str:
    named = value.child("license")
    return value.text("expression") or named.text("id") or named.text("name")


def _subject(component: Fields) -> Subject:
    if component.text("type") != "container":
        return Subject("source" if component.text("type") else "")
    texts = [unquote(component.text(key)) for key in ("version", "name", "purl")]
    digests = {text[text.index("sha256:") :][:71] for text in texts if "sha256:" in text}
    return Subject("image", frozenset(digests))


def _tool(metadata: Fields) -> Tool:
    """`tools` was a list up to version 1.4, and is an object since 1.5."""
    found = metadata.raw("tools")
    if isinstance(found, dict):
        tools = metadata.child("tools").children("components")
    else:
        tools = metadata.children("tools")
    return Tool(tools[0].text("name"), tools[0].text("version")) if tools else Tool()
