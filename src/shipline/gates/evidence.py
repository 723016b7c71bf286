"""Report files, read: what is there, what cannot be read, what is missing."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from shipline.gates.reports import Coverage, Findings, Report, ReportError, parse_report
from shipline.gates.section import split_format
from shipline.gates.verdict import JudgedReport


@dataclass(frozen=True, slots=True)
class ReportFile:
    """One report file: a `report`, or what is wrong with it and how to mend that. `missing` tells
    that there is none.

    `made` is when it was written: by its own words, else by the time of the file.
    """

    path: str
    report: Report | None = None
    problem: str = ""
    hint: str = ""
    missing: bool = False
    made: datetime | None = None
    digest: str = ""

    @property
    def source(self) -> JudgedReport:
        if self.report is None:
            return JudgedReport(self.path, digest=self.digest)
        report = self.report
        return JudgedReport(self.path, report.format, self.digest, report.tool, self.made)


def gather(names: Iterable[str], root: Path) -> tuple[ReportFile, ...]:
    """The reports behind `FORMAT:PATH` or PATH, globs expanded, relative to `root`."""
    return tuple(one for name in names for one in _expand(name, root))


def files(names: Iterable[str], root: Path) -> list[Path]:
    """The files that are there behind such names."""
    paths = (root / path for name in names for path in _paths(split_format(name)[1], root))
    return [path for path in paths if path.is_file()]


def _expand(name: str, root: Path) -> Iterator[ReportFile]:
    format, pattern = split_format(name)
    paths = _paths(pattern, root)
    if not paths:
        yield ReportFile(pattern, problem=f"no file matches {pattern}", missing=True)
    for path in paths:
        yield _inside(read(root / path, path, format), root)


def _paths(pattern: str, root: Path) -> list[str]:
    """The files that match; a name that is no pattern is itself, whether or not it is there."""
    if not glob.has_magic(pattern) or (root / pattern).is_file():
        return [pattern]
    found = sorted(glob.glob(pattern, root_dir=root, recursive=True))
    return [path for path in found if (root / path).is_file()]


def _inside(one: ReportFile, root: Path) -> ReportFile:
    """With names of files as they are from `root`: some tools write them from the top of the
    machine, where no rule and no later run on another machine would know them.
    """
    report = one.report
    if report is None:
        return one
    top = f"{root.absolute()}/"
    content = report.content
    if isinstance(content, Findings):
        found = (replace(item, path=item.path.removeprefix(top)) for item in content.found)
        content = Findings(tuple(found))
    elif isinstance(content, Coverage):
        files = {path.removeprefix(top): part for path, part in content.files.items()}
        content = Coverage(files, content.roots)
    return replace(one, report=replace(report, content=content))


def read(file: Path, path: str, format: str = "") -> ReportFile:
    """The report in `file`; a file that is no report is told in `problem`, never raised."""
    try:
        if not file.is_file():
            kind = "is no file" if file.exists() else "does not exist"
            return ReportFile(path, problem=f"{path} {kind}", missing=not file.exists())
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
                    made=modified,
                    digest=f"sha256:{digest}",
                )
    except OSError as error:
        return ReportFile(path, problem=f"{path} cannot be read: {error.strerror}")
    return ReportFile(path, report, made=report.created or modified, digest=f"sha256:{digest}")
