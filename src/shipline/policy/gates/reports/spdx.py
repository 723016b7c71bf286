"""SPDX bills of material in JSON: versions 2.2 and 2.3, and the JSON-LD of version 3.0."""

from __future__ import annotations

from typing import BinaryIO

from shipline.policy.gates.reports.fields import Fields
from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import Report, ReportError, Subject, Tool, moment
from shipline.policy.gates.reports.sbom import Component, Sbom

_NONE = ("", "NOASSERTION", "NONE")
_CONTEXT = "https://spdx.org/rdf/3."
_LICENSED = ("hasDeclaredLicense", "hasConcludedLicense")


def parse(source: BinaryIO) -> Report:
    """SPDX 2; the package that stands for the image itself is the subject."""
    reader = JsonReader(source)
    head: dict[str, object] = {}
    components: list[Component] = []
    digests: set[str] = set()
    for key in reader.members():
        if key == "packages" and reader.kind() != "n":
            for _ in reader.elements():
                value = Fields(reader.value(), "a package")
                if value.text("primaryPackagePurpose") == "CONTAINER":
                    digests |= _digests(value)
                else:
                    components.append(_package(value))
        elif key in ("spdxVersion", "SPDXID", "creationInfo"):
            head[key] = reader.value()
    reader.finish()
    value = Fields(head, "the document")
    if not value.text("spdxVersion").startswith("SPDX-2"):
        raise ReportError("not an SPDX 2 document")
    info = value.having("SPDXID", "creationInfo").child("creationInfo")
    subject = Subject("image" if digests else "", frozenset(digests))
    tools = [one.removeprefix("Tool: ") for one in info.texts("creators") if one[:5] == "Tool:"]
    tool = Tool(tools[0]) if tools else Tool()
    return Report("spdx", Sbom(tuple(components)), subject, moment(info.text("created")), tool)


def parse_linked(source: BinaryIO) -> Report:
    """SPDX 3: licences are elements of their own, tied to packages by relationships."""
    reader = JsonReader(source)
    packages: dict[str, Fields] = {}
    expressions: dict[str, str] = {}
    ties: dict[str, list[str]] = {}
    created = context = ""
    for key in reader.members():
        if key == "@context":
            context = str(reader.value())
        if key != "@graph":
            continue
        for _ in reader.elements():
            value = Fields(reader.value(), "an element")
            name = value.text("spdxId") or value.text("@id")
            match value.text("type"):
                case "software_Package":
                    packages[name] = value
                case "simplelicensing_LicenseExpression":
                    expressions[name] = value.text("simplelicensing_licenseExpression")
                case "Relationship" if value.text("relationshipType") in _LICENSED:
                    ties.setdefault(value.text("from"), []).extend(value.texts("to"))
                case "CreationInfo":
                    created = value.text("created")
    reader.finish()
    if _CONTEXT not in context:
        raise ReportError("not an SPDX 3 document: its @context is another")
    components = [
        _linked_package(value, [expressions.get(one, "") for one in ties.get(name, ())])
        for name, value in packages.items()
        if value.text("software_primaryPurpose") != "container"
    ]
    return Report("spdx", Sbom(tuple(components)), created=moment(created))


def _package(value: Fields) -> Component:
    concluded = value.text("licenseConcluded")
    license = concluded if concluded not in _NONE else value.text("licenseDeclared")
    purls = (
        one.text("referenceLocator")
        for one in value.children("externalRefs")
        if one.text("referenceType") == "purl"
    )
    return Component(
        value.having("SPDXID").name("name"),
        value.text("versionInfo"),
        next(purls, ""),
        (license,) if license not in _NONE else (),
    )


def _linked_package(value: Fields, licenses: list[str]) -> Component:
    return Component(
        value.name("name"),
        value.text("software_packageVersion"),
        value.text("software_packageUrl"),
        tuple(dict.fromkeys(one for one in licenses if one not in _NONE)),
    )


def _digests(value: Fields) -> set[str]:
    found = {value.text("versionInfo")}
    found |= {
        f"sha256:{one.text('checksumValue')}"
        for one in value.children("checksums")
        if one.text("algorithm") == "SHA256"
    }
    return {text for text in found if text.startswith("sha256:")}
