"""Which format a report has, and which tool wrote a file that is none, told by their content."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

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


class Foreign(NamedTuple):
    """A tool whose own JSON is no format that is read: what it has, and how to get what is."""

    what: str
    keys: frozenset[str]
    hint: str


_SARIF = "have the tool write SARIF, which the gates of findings read"


def _json_of(tool: str, keys: str, hint: str) -> Foreign:
    return Foreign(f"the JSON of {tool}", frozenset(keys.split()), hint)


_OBJECTS = (
    _json_of(
        "Bandit",
        "generated_at metrics results",
        "pip install 'bandit[sarif]', then: bandit -r . -f sarif -o bandit.sarif",
    ),
    _json_of("Semgrep", "paths errors results", "semgrep scan --sarif --output semgrep.sarif"),
    _json_of(
        "detect-secrets",
        "plugins_used filters_used",
        "it writes no SARIF: take gitleaks, or judge its report with a program of your own",
    ),
    _json_of("Checkov", "check_type results", "checkov -d . --output sarif"),
    _json_of("gosec", "Issues Stats", "gosec -fmt sarif -out gosec.sarif ./..."),
    _json_of(
        "golangci-lint", "Issues Report", "golangci-lint run --output.sarif.path golangci.sarif"
    ),
    _json_of("ShellCheck", "comments", _SARIF),
    _json_of("npm 6", "advisories metadata", "npm 7 or newer writes version 2: npm audit --json"),
    _json_of("npm ls", "name version dependencies", "npm audit --json"),
    _json_of("OWASP Dependency-Check", "reportSchema scanInfo", "dependency-check --format SARIF"),
    _json_of("cargo audit", "database lockfile", "osv-scanner scan --format json Cargo.lock"),
    _json_of("Safety", "report_meta scanned_packages", "pip-audit --format json"),
    _json_of("Snyk", "vulnerabilities dependencyCount", "snyk test --sarif-file-output=snyk.sarif"),
    _json_of("Jest", "numTotalTests testResults", "let it write JUnit, with jest-junit"),
)
_ELEMENTS = (
    _json_of(
        "gitleaks",
        "RuleID Secret",
        "gitleaks detect --report-format sarif --report-path gitleaks.sarif",
    ),
    _json_of("ShellCheck", "file code endLine", _SARIF),
    _json_of("Hadolint", "file code level", "hadolint --format sarif Dockerfile"),
    _json_of(
        "Ruff",
        "filename location noqa_row",
        "ruff check --output-format sarif --output-file ruff.sarif",
    ),
    _json_of("Pylint", "message-id symbol path", _SARIF),
    _json_of("Checkov", "check_type results", "checkov -d . --output sarif"),
)
_EMPTY = Foreign(
    "an empty list, which gitleaks, Hadolint and others write for no findings",
    frozenset(),
    _SARIF,
)


def foreign(source: BinaryIO) -> Foreign | None:
    """The tool that wrote this JSON, where it is one that is known. Raises ReportError for what is
    no whole JSON.
    """
    reader = JsonReader(source)
    if reader.kind() == "{":
        return _written_by(frozenset(reader.members()), _OBJECTS)
    if reader.kind() != "[":
        return None
    for _ in reader.elements():
        keys = frozenset(reader.members()) if reader.kind() == "{" else frozenset[str]()
        return _written_by(keys, _ELEMENTS)
    return _EMPTY


def _written_by(keys: frozenset[str], tools: tuple[Foreign, ...]) -> Foreign | None:
    return next((one for one in tools if one.keys <= keys), None)


def detect(source: BinaryIO) -> str:
    """The name of the only format that it can have; `source` is left at its start. Whether it has
    it is for the parser to say. Raises ReportError where it is none that is known.
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
        raise ReportError("it has none of the formats that are read")
    return found


def _xml(source: BinaryIO) -> str:
    root = next(read_xml(source), None)
    attributes = root.attributes if isinstance(root, Start) else {}
    match root.name if root else "":
        case "coverage" if {"clover", "generated"} & attributes.keys():
            return "clover"
        case "coverage":
            return "cobertura"
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
