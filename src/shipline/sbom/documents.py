"""Inventories as documents: SPDX 2.3 (spdx.github.io/spdx-spec/v2.3) and CycloneDX 1.6, as JSON.

Equal inventories with equal names and times are equal documents.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shipline import __version__
from shipline.sbom.inventory import Evidence, Inventory, Listed
from shipline.sbom.licenses import references

INCOMPLETE = "incomplete: "
"""What the comment of an SPDX document begins with whose list of packages has gaps."""

TOOL = f"shipline-{__version__}"

_NONE = "NOASSERTION"
_WITH_FILES = 10 << 20  # bytes
_GAPS = 20  # that are named
_PURPOSES = {"image": "CONTAINER", "source": "SOURCE"}
_SOURCES = {
    "deb": "the database of dpkg",
    "apk": "the database of apk",
    "rpm": "the database of rpm",
    "npm": "package.json",
    "pypi": "the metadata of a Python distribution",
    "golang": "the build information of a Go program",
    "maven": "an archive of Java",
}


@dataclass(frozen=True, slots=True)
class Described:
    """What a document is about: its name, its version, an image's digest, and what it is, `image`
    or `source`; `created` is the time of the document (RFC 3339).
    """

    name: str
    version: str
    kind: str
    created: str


def spdx(inventory: Inventory, described: Described) -> dict[str, Any]:
    """The SPDX document. If it would have more than 10 MiB, about the most that can be signed, it
    leaves out the files that packages were found in.
    """
    document = _spdx(inventory, described, files=True)
    if len(json.dumps(document)) > _WITH_FILES:
        document = _spdx(inventory, described, files=False)
    digest = hashlib.sha256(json.dumps(document).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", described.name)
    document["documentNamespace"] = f"https://spdx.org/spdxdocs/{name}-{digest[:32]}"
    return document


def _spdx(inventory: Inventory, described: Described, *, files: bool) -> dict[str, Any]:
    root = (
        "SPDXRef-DocumentRoot-Image" if described.kind == "image" else "SPDXRef-DocumentRoot-Source"
    )
    evidence = {one for package in inventory.packages for one in package.evidence if files}
    relations = [_related("SPDXRef-DOCUMENT", "DESCRIBES", root)]
    for package in inventory.packages:
        relations.append(_related(root, "CONTAINS", _package_id(package)))
        relations += [
            {
                **_related(_package_id(package), "OTHER", _file_id(one)),
                "comment": "evident-by: the package is listed in the file",
            }
            for one in package.evidence
            if files
        ]
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": described.name,
        "documentNamespace": "",
        "creationInfo": {"creators": [f"Tool: {TOOL}"], "created": _seconds(described.created)},
        "packages": [_root_package(root, described), *map(_package, inventory.packages)],
        "files": [_file(one) for one in sorted(evidence, key=_place)],
        "relationships": relations,
    }
    if inventory.gaps:
        document["creationInfo"]["comment"] = _comment(inventory)
    if licences := _references(inventory):
        document["hasExtractedLicensingInfos"] = licences
    return document


def _comment(inventory: Inventory) -> str:
    shown = inventory.gaps[:_GAPS]
    more = len(inventory.gaps) - len(shown)
    return INCOMPLETE + "; ".join([*shown, *([f"and {more} more"] if more else [])])


def _related(first: str, relation: str, second: str) -> dict[str, str]:
    return {"spdxElementId": first, "relatedSpdxElement": second, "relationshipType": relation}


def _place(one: Evidence) -> tuple[str, str]:
    return one.path, one.layer


def _hashed(*parts: str) -> str:
    text = "\0".join(parts).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]


def _package_id(one: Listed) -> str:
    name = re.sub(r"[^A-Za-z0-9.]+", "-", one.package.name)[:80]
    place = "" if one.purl else one.evidence[0].path
    digest = _hashed(one.purl, one.package.name, one.package.version, place)
    return f"SPDXRef-Package-{one.package.type}-{name}-{digest}"


def _file_id(one: Evidence) -> str:
    return f"SPDXRef-File-{_hashed(one.path, one.layer)}"


def _root_package(root: str, described: Described) -> dict[str, Any]:
    found: dict[str, Any] = {"name": described.name, "SPDXID": root}
    if described.version:
        found["versionInfo"] = described.version
    if described.version.startswith("sha256:"):
        checksum = described.version.removeprefix("sha256:")
        found["checksums"] = [{"algorithm": "SHA256", "checksumValue": checksum}]
    return {
        **found,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "licenseConcluded": _NONE,
        "licenseDeclared": _NONE,
        "copyrightText": _NONE,
        "primaryPackagePurpose": _PURPOSES[described.kind],
    }


def _package(one: Listed) -> dict[str, Any]:
    package = one.package
    found: dict[str, Any] = {"name": _full_name(one), "SPDXID": _package_id(one)}
    if package.version:
        found["versionInfo"] = package.version
    if package.supplier:
        kind = "Organization" if package.type == "rpm" else "Person"
        supplier = re.sub(r"\s*<([^<>]*)>", r" (\1)", package.supplier)
        found["supplier"] = f"{kind}: {_plain(supplier)}"
    if package.checksum:
        algorithm, _, value = package.checksum.partition(":")
        found["checksums"] = [{"algorithm": algorithm.upper(), "checksumValue": value}]
    found |= {
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "sourceInfo": f"from {_SOURCES[package.type]}: {_shown(one.evidence[0].path)}",
        "licenseConcluded": _NONE,
        "licenseDeclared": one.license or _NONE,
        "copyrightText": _NONE,
    }
    if one.purl:
        reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl"}
        found["externalRefs"] = [{**reference, "referenceLocator": one.purl}]
    return found


def _full_name(one: Listed) -> str:
    space = one.package.namespace
    joined = one.package.type in ("npm", "golang") and space
    return _plain(f"{space}/{one.package.name}" if joined else one.package.name)


def _file(one: Evidence) -> dict[str, Any]:
    """`layerID` is where BuildKit's scanner puts the layer."""
    found: dict[str, Any] = {
        "fileName": _plain(one.path),  # relative, as the specification wants it
        "SPDXID": _file_id(one),
        "checksums": [
            {"algorithm": "SHA1", "checksumValue": one.sha1},
            {"algorithm": "SHA256", "checksumValue": one.sha256},
        ],
        "licenseConcluded": _NONE,
        "copyrightText": _NONE,
    }
    return {**found, "comment": f"layerID: {one.layer}"} if one.layer else found


def _references(inventory: Inventory) -> list[dict[str, str]]:
    """What is known of licences that SPDX does not list: their names."""
    names = {name for one in inventory.packages for name in references(one.license)}
    return [
        {
            "licenseId": name,
            "name": name.removeprefix("LicenseRef-"),
            "extractedText": f"{name.removeprefix('LicenseRef-')}: the text is in the package",
        }
        for name in sorted(names)
    ]


def _shown(path: str) -> str:
    """A path from the root; names that are not UTF-8 are escaped."""
    return f"/{_plain(path)}"


def _plain(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _seconds(time: str) -> str:
    """Times of SPDX have whole seconds."""
    return re.sub(r"\.\d+", "", time)


def cyclonedx(inventory: Inventory, described: Described) -> dict[str, Any]:
    """The CycloneDX document (cyclonedx.org/docs/1.6/json)."""
    kind = {"image": "container", "source": "application"}[described.kind]
    subject: dict[str, Any] = {"bom-ref": "root", "type": kind, "name": described.name}
    if described.version:
        subject["version"] = described.version
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": "",
        "version": 1,
        "metadata": {
            "timestamp": _seconds(described.created),
            "tools": {
                "components": [{"type": "application", "name": "shipline", "version": __version__}]
            },
            "component": subject,
        },
        "components": [_component(one) for one in inventory.packages],
        "compositions": [{"aggregate": "incomplete" if inventory.gaps else "unknown"}],
    }
    if inventory.gaps:
        note = {"name": "shipline:incomplete", "value": _comment(inventory)}
        document["metadata"]["properties"] = [note]
    content = json.dumps(document).encode()
    number = uuid.UUID(hashlib.sha256(content).hexdigest()[:32], version=4)
    return {**document, "serialNumber": f"urn:uuid:{number}"}


def _component(one: Listed) -> dict[str, Any]:
    package = one.package
    found: dict[str, Any] = {"bom-ref": _package_id(one), "type": "library"}
    if package.namespace:
        found["group"] = package.namespace
    found |= {"name": _plain(package.name), "version": package.version}
    if one.purl:
        found["purl"] = one.purl
    if one.license:
        found["licenses"] = [{"expression": one.license}]
    if package.checksum:
        algorithm, _, value = package.checksum.partition(":")
        known = {"sha1": "SHA-1", "sha256": "SHA-256", "sha512": "SHA-512"}
        found["hashes"] = [{"alg": known[algorithm], "content": value}]
    properties: list[Mapping[str, str]] = [
        {"name": "shipline:location", "value": _shown(evidence.path)} for evidence in one.evidence
    ]
    properties += [
        {"name": "shipline:layer", "value": evidence.layer}
        for evidence in one.evidence
        if evidence.layer
    ]
    return {**found, "properties": properties}
