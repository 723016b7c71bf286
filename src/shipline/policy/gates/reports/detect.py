"""Which format a report has, told by its content."""

from __future__ import annotations

from typing import BinaryIO

from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import ReportError
from shipline.policy.gates.reports.xml_stream import Start, read_xml

_HEAD = 4096  # bytes
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_KEYS = {
    "runs": "sarif",
    "SchemaVersion": "trivy",
    "ArtifactName": "trivy",
    "Results": "trivy",
    "matches": "grype",
    "results": "osv",
    "auditReportVersion": "npm-audit",
    "dependencies": "pip-audit",
    "bomFormat": "cyclonedx",
    "spdxVersion": "spdx",
    "@graph": "spdx3",
    "statements": "openvex",
    "files": "coverage.py",
    "totals": "coverage.py",
    "total": "istanbul-summary",
}


def detect(source: BinaryIO) -> str:
    """The name of the format; `source` is left at its start. Raises ReportError where it is none
    that is known.
    """
    head = source.read(_HEAD)
    source.seek(0)
    plain = head.lstrip(b"".join(_BOMS) + b"\x00 \t\r\n")
    if plain.startswith(b"<"):
        found = _xml(source)
    elif plain[:1] in (b"{", b"["):
        found = _json(source)
    elif plain.startswith(b"mode: "):
        found = "go"
    else:
        found = "lcov" if plain.startswith((b"TN:", b"SF:", b"#")) else ""
    source.seek(0)
    if not found:
        raise ReportError("this is no report of a known format")
    return found


def _xml(source: BinaryIO) -> str:
    root = next(read_xml(source), None)
    attributes = root.attributes if isinstance(root, Start) else {}
    match root.name if root else "":
        case "coverage":
            return "clover" if "clover" in attributes or "generated" in attributes else "cobertura"
        case "report":
            return "jacoco"
        case "testsuites" | "testsuite":
            return "junit"
    return ""


def _json(source: BinaryIO) -> str:
    """The first key that only one format has; reads no further."""
    reader = JsonReader(source)
    if reader.kind() == "[":
        return _list(reader)
    failed = ""
    for key in reader.members():
        if key in _KEYS and not (key == "total" and reader.kind() != "{"):
            return _KEYS[key]
        if key in ("error", "message"):
            failed = "npm-audit"
        elif reader.kind() == "{" and _is_final(reader):
            return "istanbul"
    return failed


def _list(reader: JsonReader) -> str:
    """By the first key of the first element."""
    for _ in reader.elements():
        if reader.kind() == "{" and next(reader.members(), "") == "filePath":
            return "eslint"
        break
    return "pip-audit"


def _is_final(reader: JsonReader) -> bool:
    found = False
    for key in reader.members():
        found = found or key in ("statementMap", "data")
    return found
