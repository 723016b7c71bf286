"""`pip-audit --format json`."""

from __future__ import annotations

from typing import BinaryIO

from shipline.policy.gates.reports.fields import Fields
from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import Report, ReportError, Subject, Tool
from shipline.policy.gates.reports.vulnerabilities import Vulnerabilities, Vulnerability
from shipline.units import counted

_SHOWN = 5  # skipped packages that are named


class _Audit:
    def __init__(self) -> None:
        self.found: list[Vulnerability] = []
        self.audited = 0
        self.skipped: list[str] = []
        self.reason = ""

    def read(self, reader: JsonReader) -> None:
        for _ in reader.elements():
            self._add(Fields(reader.value(), "a dependency"))

    def _add(self, value: Fields) -> None:
        name = value.name("name")
        if "skip_reason" in value:
            self.skipped.append(name)
            self.reason = self.reason or value.text("skip_reason")
            return
        self.audited += 1
        value.having("version", "vulns")
        self.found += [_vulnerability(value, one) for one in value.children("vulns")]

    @property
    def gaps(self) -> tuple[str, ...]:
        if not self.skipped:
            return ()
        names = ", ".join(self.skipped[:_SHOWN]) + (", ..." if len(self.skipped) > _SHOWN else "")
        packages = counted(len(self.skipped), "package was", "packages were")
        return (f"{packages} not audited ({names}): {self.reason[:200]}",)


def parse(source: BinaryIO) -> Report:
    """Packages that were skipped are a gap: pip-audit calls them clean and ends with status 0.

    pip-audit gives no severities.
    """
    reader, audit = JsonReader(source), _Audit()
    if reader.kind() == "[":  # version 1 wrote the bare list
        audit.read(reader)
        if not audit.audited and not audit.skipped:
            raise ReportError("an empty list does not tell which tool wrote it")
    else:
        seen = False
        for key in reader.members():
            if key == "dependencies":
                seen = True
                audit.read(reader)
        if not seen:
            raise ReportError("not a report of pip-audit: it has no dependencies")
    reader.finish()
    looked_at = audit.audited + len(audit.skipped)
    content = Vulnerabilities(tuple(audit.found), looked_at)
    return Report("pip-audit", content, Subject("source"), tool=Tool("pip-audit"), gaps=audit.gaps)


def _vulnerability(package: Fields, value: Fields) -> Vulnerability:
    name, version = package.text("name"), package.text("version")
    return Vulnerability(
        value.name("id"),
        name,
        version,
        aliases=value.texts("aliases"),
        purl=f"pkg:pypi/{name}@{version}",
        fixed=value.texts("fix_versions"),
    )
