"""SBOM and VEX documents: CycloneDX, SPDX, OpenVEX."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote

from shipline.gates.reports.fields import Fields
from shipline.gates.reports.report import (
    Component,
    Report,
    ReportError,
    ReportSubject,
    Sbom,
    Tool,
    Vex,
    VexStatement,
    parse_time,
)
from shipline.gates.reports.streams import JsonReader

_NOT_COUNTED = ("file", "operating-system")


def parse_cyclonedx(source: BinaryIO) -> Report:
    """Packages, including nested ones, without files and the operating system."""
    reader = JsonReader(source)
    report = _cyclonedx(reader)
    reader.finish()
    return report


def _cyclonedx(reader: JsonReader) -> Report:
    head: dict[str, object] = {}
    components: list[Component] = []
    for key in reader.members():
        if key == "components" and reader.kind() != "n":
            for _ in reader.elements():
                components += _components(Fields(reader.value(), "a component"))
        elif key in ("bomFormat", "specVersion", "metadata", "compositions"):
            head[key] = reader.value()
    value = Fields(head, "the document")
    if value.text("bomFormat") != "CycloneDX":
        raise ReportError("not a CycloneDX document")
    value.name("specVersion")
    metadata = value.child("metadata")
    partial = [composition.text("aggregate") for composition in value.children("compositions")]
    gaps = [
        f"the document declares itself {aggregate}"
        for aggregate in partial
        if aggregate.startswith("incomplete")
    ]
    return Report(
        "cyclonedx",
        Sbom(tuple(components)),
        _subject(metadata.child("component")),
        parse_time(metadata.text("timestamp")),
        _tool(metadata),
        tuple(dict.fromkeys(gaps)),
    )


def _components(value: Fields) -> Iterator[Component]:
    if value.name("type") not in _NOT_COUNTED:
        yield Component(
            "/".join(filter(None, (value.text("group"), value.name("name")))),
            value.text("version"),
            value.text("purl"),
            tuple(filter(None, map(_license, value.children("licenses")))),
        )
    for child in value.children("components"):
        yield from _components(child)


def _license(value: Fields) -> str:
    license = value.child("license")
    return value.text("expression") or license.text("id") or license.text("name")


def _subject(component: Fields) -> ReportSubject:
    if component.text("type") != "container":
        return ReportSubject("source" if component.text("type") else "")
    texts = [unquote(component.text(key)) for key in ("version", "name", "purl")]
    digests = {text[text.index("sha256:") :][:71] for text in texts if "sha256:" in text}
    return ReportSubject("image", frozenset(digests))


def _tool(metadata: Fields) -> Tool:
    """`tools` is a list up to version 1.4, an object since 1.5."""
    tools_value = metadata.raw("tools")
    if isinstance(tools_value, dict):
        tools = metadata.child("tools").children("components")
    else:
        tools = metadata.children("tools")
    return Tool(tools[0].text("name"), tools[0].text("version")) if tools else Tool()


_NONE = ("", "NOASSERTION", "NONE")
_INCOMPLETE = (
    "incomplete: "  # `sbom.documents` begins the comment with it where files were not read
)
_CONTEXT = "https://spdx.org/rdf/3."
_LICENSED = ("hasDeclaredLicense", "hasConcludedLicense")


def parse_spdx(source: BinaryIO) -> Report:
    """SPDX 2; the package of the image itself is the subject."""
    reader = JsonReader(source)
    report = _spdx(reader)
    reader.finish()
    return report


def parse_statement(source: BinaryIO) -> Report:
    """A statement of in-toto whose predicate is SPDX 2 or CycloneDX, as builds write it."""
    reader = JsonReader(source)
    kind, found = "", None
    for key in reader.members():
        if key == "predicateType":
            kind = str(reader.value())
        elif key == "predicate":
            parse = next((one for name, one in _PREDICATES.items() if kind.startswith(name)), None)
            if parse is None:
                raise ReportError(f"a statement that is not a list of packages: {kind!r:.100}")
            found = parse(reader)
    reader.finish()
    if found is None:
        raise ReportError("a statement without a predicate")
    return found


def _spdx(reader: JsonReader) -> Report:
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
    value = Fields(head, "the document")
    if not value.text("spdxVersion").startswith("SPDX-2"):
        raise ReportError("not an SPDX 2 document")
    info = value.require("SPDXID", "creationInfo").child("creationInfo")
    subject = ReportSubject("image" if digests else "", frozenset(digests))
    tools = [
        creator.removeprefix("Tool: ")
        for creator in info.texts("creators")
        if creator[:5] == "Tool:"
    ]
    tool = Tool(tools[0]) if tools else Tool()
    comment = info.text("comment")
    gaps = (comment,) if comment.startswith(_INCOMPLETE) else ()
    created = parse_time(info.text("created"))
    return Report("spdx", Sbom(tuple(components)), subject, created, tool, gaps)


_PREDICATES = {"https://spdx.dev/Document": _spdx, "https://cyclonedx.org/bom": _cyclonedx}


def parse_spdx3(source: BinaryIO) -> Report:
    """SPDX 3: relationships connect packages with licence elements."""
    reader = JsonReader(source)
    packages: dict[str, Fields] = {}
    expressions: dict[str, str] = {}
    relationships: dict[str, list[str]] = {}
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
                    relationships.setdefault(value.text("from"), []).extend(value.texts("to"))
                case "CreationInfo":
                    created = value.text("created")
    reader.finish()
    if _CONTEXT not in context:
        raise ReportError("not an SPDX 3 document: it has another @context")
    components = [
        _spdx3_package(
            value, [expressions.get(license, "") for license in relationships.get(name, ())]
        )
        for name, value in packages.items()
        if value.text("software_primaryPurpose") != "container"
    ]
    return Report("spdx", Sbom(tuple(components)), created=parse_time(created))


def _package(value: Fields) -> Component:
    concluded = value.text("licenseConcluded")
    license = concluded if concluded not in _NONE else value.text("licenseDeclared")
    purls = (
        reference.text("referenceLocator")
        for reference in value.children("externalRefs")
        if reference.text("referenceType") == "purl"
    )
    return Component(
        value.require("SPDXID").name("name"),
        value.text("versionInfo"),
        next(purls, ""),
        (license,) if license not in _NONE else (),
    )


def _spdx3_package(value: Fields, licenses: list[str]) -> Component:
    return Component(
        value.name("name"),
        value.text("software_packageVersion"),
        value.text("software_packageUrl"),
        tuple(dict.fromkeys(license for license in licenses if license not in _NONE)),
    )


def _digests(value: Fields) -> set[str]:
    candidates = {value.text("versionInfo")}
    candidates |= {
        f"sha256:{checksum.text('checksumValue')}"
        for checksum in value.children("checksums")
        if checksum.text("algorithm") == "SHA256"
    }
    return {text for text in candidates if text.startswith("sha256:")}


_OPENVEX_CONTEXT = "https://openvex.dev/ns"
_STATUSES = ("not_affected", "affected", "fixed", "under_investigation")


def parse_openvex(source: BinaryIO) -> Report:
    """`not_affected` needs a justification or an impact statement.

    Source: OpenVEX specification v0.2.0, "Status Justifications".
    """
    reader = JsonReader(source)
    value = Fields(reader.value(), "the document")
    reader.finish()
    if not str(value.require("statements").raw("@context")).startswith(_OPENVEX_CONTEXT):
        raise ReportError("not an OpenVEX document: it has another @context")
    statements = [
        _statement(statement, value.text("timestamp")) for statement in value.children("statements")
    ]
    created = parse_time(value.text("timestamp"))
    vex = Vex(tuple(statements), value.text("author"))
    return Report("openvex", vex, created=created)


def _statement(value: Fields, document_time: str) -> VexStatement:
    identified = value.raw("vulnerability")
    about = (
        value.child("vulnerability")
        if isinstance(identified, dict)
        else Fields({"name": identified}, "")
    )
    status = value.text("status")
    reason = value.text("justification") or value.text("impact_statement")
    if status not in _STATUSES or not about.text("name"):
        raise ReportError(f"not a statement about a vulnerability: status {status[:40]!r}")
    if status == "not_affected" and not reason:
        raise ReportError(f"{about.text('name')}: not_affected without a justification")
    products = [_fields(product) for product in value.elements("products")]
    return VexStatement(
        about.text("name"),
        status,
        about.texts("aliases"),
        tuple(_purl(product) for product in products),
        tuple(
            _purl(_fields(part))
            for product in products
            for part in product.elements("subcomponents")
        ),
        reason,
        parse_time(value.text("last_updated") or value.text("timestamp") or document_time),
    )


def _fields(value: object) -> Fields:
    """Products are plain strings before version 0.2."""
    return Fields({"@id": value} if isinstance(value, str) else value, "a product")


def _purl(value: Fields) -> str:
    return value.child("identifiers").text("purl") or value.text("@id")
