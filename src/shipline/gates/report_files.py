"""Reads report files, and says which are missing or unreadable."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shipline.gates.reports import Coverage, Findings, Report, ReportError, parse_report
from shipline.gates.section import split_format
from shipline.gates.verdict import JudgedReport
from shipline.values import replace


@dataclass(frozen=True, slots=True)
class ReportFile:
    """One report file: its `report`, or the `problem` with it and a `hint`; `missing` if there is
    no file.

    `written` is the time in the report, else the modification time of the file.
    """

    path: str
    report: Report | None = None
    problem: str = ""
    hint: str = ""
    missing: bool = False
    written: datetime | None = None
    digest: str = ""

    @property
    def source(self) -> JudgedReport:
        if self.report is None:
            return JudgedReport(self.path, digest=self.digest)
        report = self.report
        return JudgedReport(self.path, report.format, self.digest, report.tool, self.written)


def read_reports(names: Iterable[str], root: Path) -> tuple[ReportFile, ...]:
    """The reports named by `FORMAT:PATH` or PATH, with globs expanded, relative to `root`."""
    return tuple(file for name in names for file in _matching_reports(name, root))


def existing_files(names: Iterable[str], root: Path) -> list[Path]:
    """The existing files that such names match."""
    return [path for name in names for path in matching_files(split_format(name)[1], root)]


def matching_files(pattern: str, root: Path) -> list[Path]:
    """The existing files that a path or a pattern matches, as gates find them."""
    paths = (root / path for path in _matching_paths(pattern, root))
    return [path for path in paths if path.is_file()]


def _matching_reports(name: str, root: Path) -> Iterator[ReportFile]:
    format, pattern = split_format(name)
    paths = _matching_paths(pattern, root)
    if not paths:
        yield ReportFile(pattern, problem=f"no file matches {pattern}", missing=True)
    for path in paths:
        yield _relative_to_root(read_report(root / path, path, format), root)


def _matching_paths(pattern: str, root: Path) -> list[str]:
    """The files that match; a plain name matches itself, whether it exists or not."""
    if not glob.has_magic(pattern) or (root / pattern).is_file():
        return [pattern]
    matches = sorted(glob.glob(pattern, root_dir=root, recursive=True))
    return [path for path in matches if (root / path).is_file()]


def _relative_to_root(file: ReportFile, root: Path) -> ReportFile:
    """With paths inside `root` made relative: some tools write absolute paths, which no rule and no
    later run on another machine would match.
    """
    report = file.report
    if report is None:
        return file
    top = f"{root.absolute()}/"
    content = report.content
    if isinstance(content, Findings):
        findings = (replace(item, path=item.path.removeprefix(top)) for item in content.findings)
        content = Findings(tuple(findings))
    elif isinstance(content, Coverage):
        existing_files = {
            path.removeprefix(top): file_coverage for path, file_coverage in content.files.items()
        }
        content = Coverage(existing_files, content.roots)
    return replace(file, report=replace(report, content=content))


def read_report(file: Path, path: str, format: str = "") -> ReportFile:
    """The report in `file`; if it cannot be read, `problem` says why. Never raises."""
    try:
        if not file.is_file():
            problem = "is not a file" if file.exists() else "does not exist"
            return ReportFile(path, problem=f"{path} {problem}", missing=not file.exists())
        with open(file, "rb") as stream:
            modified = datetime.fromtimestamp(os.fstat(stream.fileno()).st_mtime, UTC)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            try:
                report = parse_report(stream, format)
            except ReportError as error:
                return ReportFile(
                    path,
                    problem=f"{path}: {error.message}",
                    hint=error.hint,
                    written=modified,
                    digest=f"sha256:{digest}",
                )
    except OSError as error:
        return ReportFile(path, problem=f"{path} cannot be read: {error.strerror}")
    return ReportFile(path, report, written=report.created or modified, digest=f"sha256:{digest}")
