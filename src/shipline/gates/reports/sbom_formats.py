"""Bills of material and statements about them: CycloneDX, SPDX, OpenVEX."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote

from shipline.gates.reports.fields import Fields
from shipline.gates.reports.json_stream import JsonReader
from shipline.gates.reports.report import (
    Component,
    Report,
    ReportError,
    ReportSubject,
    Sbom,
    Tool,
    Vex,
    VexStatement,
    moment,
)

_NOT_COUNTED = ("file", "operating-system")


def parse_cyclonedx(source: BinaryIO) -> Report:
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


def _subject(component: Fields) -> ReportSubject:
    if component.text("type") != "container":
        return ReportSubject("source" if component.text("type") else "")
    texts = [unquote(component.text(key)) for key in ("version", "name", "purl")]
    digests = {text[text.index("sha256:") :][:71] for text in texts if "sha256:" in text}
    return ReportSubject("image", frozenset(digests))


def _tool(metadata: Fields) -> Tool:
    """`tools` was a list up to version 1.4, and is an object since 1.5."""
    found = metadata.raw("tools")
    if isinstance(found, dict):
        tools = metadata.child("tools").children("components")
    else:
        tools = metadata.children("tools")
    return Tool(tools[0].text("name"), tools[0].text("version")) if tools else Tool()


_NONE = ("", "NOASSERTION", "NONE")
_CONTEXT = "https://spdx.org/rdf/3."
_LICENSED = ("hasDeclaredLicense", "hasConcludedLicense")


def parse_spdx(source: BinaryIO) -> Report:
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
    subject = ReportSubject("image" if digests else "", frozenset(digests))
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


_openvex_CONTEXT = "https://openvex.dev/ns"
_STATUSES = ("not_affected", "affected", "fixed", "under_investigation")


def parse_openvex(source: BinaryIO) -> Report:
    """`not_affected` needs a justification or an impact statement, as the specification says."""
    reader = JsonReader(source)
    value = Fields(reader.value(), "the document")
    reader.finish()
    if not str(value.having("statements").raw("@context")).startswith(_openvex_CONTEXT):
        raise ReportError("not an OpenVEX document: its @context is another")
    statements = [_statement(one, value.text("timestamp")) for one in value.children("statements")]
    created = moment(value.text("timestamp"))
    vex = Vex(tuple(statements), value.text("author"))
    return Report("openvex", vex, created=created)


def _statement(value: Fields, document_time: str) -> VexStatement:
    named = value.raw("vulnerability")
    about = value.child("vulnerability") if isinstance(named, dict) else Fields({"name": named}, "")
    status = value.text("status")
    reason = value.text("justification") or value.text("impact_statement")
    if status not in _STATUSES or not about.text("name"):
        raise ReportError(f"not a statement about a vulnerability: status {status[:40]!r}")
    if status == "not_affected" and not reason:
        raise ReportError(f"{about.text('name')}: not_affected without a justification")
    products = [_fields(one) for one in value.listing("products")]
    return VexStatement(
        about.text("name"),
        status,
        about.texts("aliases"),
        tuple(_purl(one) for one in products),
        tuple(_purl(_fields(part)) for one in products for part in one.listing("subcomponents")),
        reason,
        moment(value.text("last_updated") or value.text("timestamp") or document_time),
    )


def _fields(value: object) -> Fields:
    """Products were plain texts before version 0.2."""
    return Fields({"@id": value} if isinstance(value, str) else value, "a product")


def _purl(value: Fields) -> str:
    return value.child("identifiers").text("purl") or value.text("@id")
