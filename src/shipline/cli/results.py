"""The result of a build for people and other programs: its ID, metadata, a summary."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipline.build import BuildRequest, parse_boolean
from shipline.build.metadata import image_id, result_facts
from shipline.files import open_whole, writing

if TYPE_CHECKING:
    from shipline.build import BuildResult
    from shipline.observe import RunReport

_CUT = "\n\n(the summary is longer than GitHub shows)\n"
_WARNINGS = "BUILDX_METADATA_WARNINGS"
REPORTED = ("auto", "plain", "report", "tty")
"""Modes of --progress that end with a report."""
_FILES = {"local", "tar"}  # types of outputs that hold the files of an image, and no image


def write_result(
    request: BuildRequest, result: BuildResult, *, mode: str, warnings: Mapping[str, Any]
) -> None:
    """Write --iidfile and --metadata-file, and print a summary: the ID alone if the mode of
    --progress is quiet, else digest and names.
    """
    _write(request, {**result_facts(result), **warnings}, str(image_id(result)), mode)


def write_response(
    request: BuildRequest, response: Mapping[str, str], *, mode: str, warnings: Mapping[str, Any]
) -> None:
    """As `write_result`, of what another builder says: buildx's metadata is the same."""
    found = response.get("containerimage.config.digest") or response.get("containerimage.digest")
    _write(request, {**response_facts(response), **warnings}, found or "", mode)


def warning_facts(warned: Sequence[object], environ: Mapping[str, str]) -> dict[str, Any]:
    """The warnings as metadata, where `environ` (BUILDX_METADATA_WARNINGS) wants them."""
    asked = environ.get(_WARNINGS, "")
    wanted = bool(warned and asked and parse_boolean(asked, _WARNINGS))
    return {"buildx.build.warnings": warned} if wanted else {}


def _write(request: BuildRequest, facts: Mapping[str, Any], image: str, mode: str) -> None:
    if request.outputs and all(one.type in _FILES for one in request.outputs):
        facts = {key: one for key, one in facts.items() if not key.startswith("containerimage.")}
    if request.iidfile is not None and image:
        write_whole(request.iidfile, image)
    if request.metadata_file is not None:
        write_metadata(request.metadata_file, facts)
    if mode in REPORTED:
        show_outcome(request, facts)
    if mode == "quiet" and image and not any(one.destination == "-" for one in request.outputs):
        click.echo(image)


def response_facts(response: Mapping[str, str]) -> dict[str, Any]:
    """What another builder says, as metadata."""
    return {name: _decoded(value) for name, value in sorted(response.items())}


def _decoded(value: str) -> object:
    """A value of an exporter: text, or a document in base64."""
    try:
        document = json.loads(base64.b64decode(value, validate=True))
    except ValueError:
        return value
    return document if isinstance(document, dict) else value


def show_outcome(request: BuildRequest, facts: Mapping[str, Any], before: str = "") -> None:
    """Print what was made, as its metadata says, to standard error, each line after `before`."""
    lines = "".join(f"{before}{line}\n" for line in _outcome(request, facts))
    click.echo(lines, err=True, nl=False)


def _outcome(request: BuildRequest, facts: Mapping[str, Any]) -> Iterator[str]:
    """Images by name and digest, files by path."""
    kinds = {output.type for output in request.outputs}
    digest = facts.get("containerimage.digest")
    if digest and (not kinds or kinds - _FILES):
        verb = "pushed" if request.push else "loaded" if request.load else "built"
        names = [name for name in facts.get("image.name", "").split(",") if name]
        yield from (f"{verb} {name}@{digest}" for name in names)
        if not names:
            yield f"{verb} {digest}"
    for output in request.outputs:
        if output.destination not in ("", "-"):
            yield f"wrote {output.destination}"


def write_report(title: str, report: RunReport, environ: Mapping[str, str]) -> None:
    """Print how long a build took and why, and add it to the summary of a job of GitHub Actions."""
    text = "\n".join(report.lines())
    click.echo(text, err=True)
    if place := job_summary(environ):
        names = [str(report.facts.get("digest", "")), *str(report.facts.get("names", "")).split()]
        items = "".join(f"- `{name}`\n" for name in names if name)
        append_summary(place, f"## {title}\n\n{items}\n{fenced(text)}\n\n")


def fenced(text: str) -> str:
    """A block of code of Markdown; its fence is longer than those in the text."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}\n{text}\n{fence}"


def job_summary(environ: Mapping[str, str]) -> str:
    """The file for the summary of this job of GitHub Actions; empty elsewhere."""
    actions = environ.get("GITHUB_ACTIONS") == "true"
    return environ.get("GITHUB_STEP_SUMMARY", "") if actions else ""


def append_summary(place: str | Path, text: str) -> None:
    """Append to a summary as far as GitHub shows it: 1 MiB for each step of a job."""
    from shipline.observe import SUMMARY_LIMIT

    path = Path(place)
    room = SUMMARY_LIMIT - (path.stat().st_size if path.exists() else 0)
    if len(text.encode()) > room:
        kept = text.encode()[: max(room - len(_CUT), 0)].decode(errors="ignore")
        text = kept.rpartition("\n")[0] + _CUT if kept else ""
    append(place, text)


def append(place: str | Path, text: str) -> None:
    """Append to a file of the CI system; that this fails is a warning."""
    try:
        with open(place, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        click.echo(f"warning: cannot write {place}: {error.strerror}", err=True)


def write_metadata(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts with their names in order, as buildx does."""
    write_whole(path, json.dumps(dict(sorted(facts.items())), indent=2) + "\n")


def write_whole(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file atomically; a device is written directly. Only its owner can read a `private`
    one.
    """
    with writing(path), open_whole(path) as file:
        if private:
            os.fchmod(file.fileno(), 0o600)
        file.write(text.encode())
