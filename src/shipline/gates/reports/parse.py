"""From bytes to a report: detects the format by content; every failure becomes a ReportError."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import BinaryIO, NamedTuple

from shipline.errors import UsageError
from shipline.gates.reports.coverage import Coverage
from shipline.gates.reports.report import (
    Content,
    Findings,
    Report,
    ReportError,
    Sbom,
    TestResults,
    Vex,
    Vulnerabilities,
    WebFindings,
)
from shipline.gates.reports.streams import JsonReader, Start, read_xml

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
    "predicateType": "in-toto",
    "statements": "openvex",
    "files": "coverage.py",
    "totals": "coverage.py",
    "total": "istanbul-summary",
    "@programName": "zap",
    "@version": "zap",
    "@generated": "zap",
    "template-url": "nuclei",
    "template-id": "nuclei",
}


class UnsupportedFormat(NamedTuple):
    """A tool whose JSON is not supported, the keys to recognise it by, and a hint."""

    description: str
    keys: frozenset[str]
    hint: str


_SARIF = "have the tool write SARIF"


def _json_of(tool: str, keys: str, hint: str) -> UnsupportedFormat:
    return UnsupportedFormat(f"the JSON of {tool}", frozenset(keys.split()), hint)


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
        "it cannot write SARIF: use gitleaks, or a command gate that reads its report",
    ),
    _json_of("Checkov", "check_type results", "checkov -d . --output sarif"),
    _json_of("gosec", "Issues Stats", "gosec -fmt sarif -out gosec.sarif ./..."),
    _json_of(
        "golangci-lint", "Issues Report", "golangci-lint run --output.sarif.path golangci.sarif"
    ),
    _json_of("ShellCheck", "comments", _SARIF),
    _json_of(
        "npm 6",
        "advisories metadata",
        "use npm 7 or newer, which writes version 2: npm audit --json",
    ),
    _json_of("npm ls", "name version dependencies", "npm audit --json"),
    _json_of("OWASP Dependency-Check", "reportSchema scanInfo", "dependency-check --format SARIF"),
    _json_of("cargo audit", "database lockfile", "osv-scanner scan --format json Cargo.lock"),
    _json_of("Safety", "report_meta scanned_packages", "pip-audit --format json"),
    _json_of("Snyk", "vulnerabilities dependencyCount", "snyk test --sarif-file-output=snyk.sarif"),
    _json_of("Jest", "numTotalTests testResults", "have it write JUnit, with jest-junit"),
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
_EMPTY = UnsupportedFormat(
    "an empty list, which gitleaks, Hadolint and others write for no findings", frozenset(), _SARIF
)


def recognise_unsupported(source: BinaryIO) -> UnsupportedFormat | None:
    """The unsupported tool that wrote this JSON; None if unknown. Raises ReportError for invalid
    JSON.
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


def _written_by(
    keys: frozenset[str], tools: tuple[UnsupportedFormat, ...]
) -> UnsupportedFormat | None:
    return next((tool for tool in tools if tool.keys <= keys), None)


def detect(source: BinaryIO) -> str:
    """The only format that the content can have, which the parser then verifies; `source` is left
    at its start. Raises ReportError if no format matches.
    """
    head = source.read(_HEAD)
    source.seek(0)
    text = head.lstrip(b"".join(_BOMS) + b"\x00 \t\r\n")
    if text.startswith(b"<"):
        format = _xml(source)
    elif text[:1] in (b"{", b"["):
        format = _json(source)
    elif text.startswith(b"mode: "):
        format = "go"
    else:
        format = "lcov" if text.startswith((b"TN:", b"SF:", b"#")) else ""
    source.seek(0)
    if not format:
        raise ReportError("unknown report format", code="report-format")
    return format


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
        case "OWASPZAPReport":
            raise ReportError(
                "this is ZAP's XML report",
                code="report-format",
                hint="have ZAP write traditional-json",
            )
    return ""


def _json(source: BinaryIO) -> str:
    """By the first key that is unique to a format; reads no further."""
    reader = JsonReader(source)
    if reader.kind() == "[":
        return _list(reader)
    failed = ""
    for key in reader.members():
        if key in _KEYS and not (key == "total" and reader.kind() != "{"):
            return _KEYS[key]
        if key in ("error", "message"):
            failed = "npm-audit"
        elif reader.kind() == "{" and _is_istanbul_file(reader):
            return "istanbul"
    return failed


def _list(reader: JsonReader) -> str:
    """By the first key of the first element."""
    for _ in reader.elements():
        key = next(reader.members(), "") if reader.kind() == "{" else ""
        return {"filePath": "eslint", "template": "nuclei"}.get(key) or _KEYS.get(key, "pip-audit")
    return "pip-audit"


def _is_istanbul_file(reader: JsonReader) -> bool:
    final = False
    for key in reader.members():
        final = final or key in ("statementMap", "data")
    return final


_PARSERS: Mapping[type[Content], Mapping[str, str]] = {
    Coverage: {
        "coverage.py": "coverage_formats:parse_coveragepy",
        "cobertura": "coverage_formats:parse_cobertura",
        "jacoco": "coverage_formats:parse_jacoco",
        "clover": "coverage_formats:parse_clover",
        "lcov": "coverage_formats:parse_lcov",
        "istanbul": "coverage_formats:parse_istanbul",
        "istanbul-summary": "coverage_formats:parse_istanbul_summary",
        "go": "coverage_formats:parse_gocover",
    },
    TestResults: {"junit": "junit:parse"},
    Findings: {"sarif": "findings_formats:parse_sarif", "eslint": "findings_formats:parse_eslint"},
    WebFindings: {"zap": "web_formats:parse_zap", "nuclei": "web_formats:parse_nuclei"},
    Vulnerabilities: {
        "trivy": "scanner_formats:parse_trivy",
        "grype": "scanner_formats:parse_grype",
        "osv": "scanner_formats:parse_osv",
        "npm-audit": "scanner_formats:parse_npm_audit",
        "pip-audit": "scanner_formats:parse_pip_audit",
    },
    Sbom: {
        "cyclonedx": "sbom_formats:parse_cyclonedx",
        "spdx": "sbom_formats:parse_spdx",
        "spdx3": "sbom_formats:parse_spdx3",
        "in-toto": "sbom_formats:parse_statement",
    },
    Vex: {"openvex": "sbom_formats:parse_openvex"},
}
_PARSER_OF = {name: place for some in _PARSERS.values() for name, place in some.items()}
REPORT_FORMATS = tuple(_PARSER_OF)
_BLANK = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"


def formats_of(*contents: type[Content]) -> tuple[str, ...]:
    """The report formats with these contents."""
    return tuple(name for content in contents for name in _PARSERS[content])


def parse_report(source: BinaryIO, format: str = "") -> Report:
    """The report in `source`, a seekable file.

    `format` is one of REPORT_FORMATS, or empty to detect it. Raises ReportError for anything else
    than a complete report of that format, with a hint if another tool is recognised; UsageError for
    an unknown format.
    """
    if format and format not in _PARSER_OF:
        raise UsageError(
            f"unknown report format: {format!r}",
            code="report-format",
            hint=f"one of {', '.join(REPORT_FORMATS)}",
        )
    try:
        return _parsed(source, format)
    except ReportError as error:
        if error.hint:
            raise
        tool = _unsupported_format(source)
        if tool is None:
            hint = f"supported formats: {', '.join(REPORT_FORMATS)}"
            raise ReportError(error.message, hint=hint) from None
        raise ReportError(
            f"this is {tool.description}: {error.message}", code="report-format", hint=tool.hint
        ) from None


def _parsed(source: BinaryIO, format: str) -> Report:
    try:
        if not source.read(_HEAD).strip(_BLANK):
            hint = (
                "run the tool that writes it again; nuclei with -matcher-status, or it writes none"
            )
            raise ReportError("the report is empty", hint=hint)
        source.seek(0)
        return _parser(format or detect(source))(source)
    except UnicodeDecodeError as error:
        raise ReportError(f"not valid {error.encoding} text: {error.reason}") from None
    except (RecursionError, MemoryError):
        raise ReportError("nested too deeply") from None
    except (ValueError, OverflowError, OSError) as error:
        raise ReportError(f"cannot be read: {error}") from None


def _unsupported_format(source: BinaryIO) -> UnsupportedFormat | None:
    try:
        source.seek(0)
        return recognise_unsupported(source)
    except (ReportError, ValueError, RecursionError, MemoryError, OSError):
        return None


def _parser(name: str) -> Callable[[BinaryIO], Report]:
    module, _, attribute = _PARSER_OF[name].partition(":")
    parse: Callable[[BinaryIO], Report] = getattr(
        import_module(f"shipline.gates.reports.{module}"), attribute
    )
    return parse
