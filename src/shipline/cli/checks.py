"""`shipline build --check`: what the Dockerfile could do better, without building it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from shipline.build import BuildRequest, ContextKind
from shipline.dockerfile import LintWarning, PlatformArgs, lint, parse_dockerfile
from shipline.errors import UsageError
from shipline.oci import Platform


def check(request: BuildRequest) -> int:
    """Print what is found for any platform; 1 if there is something, unless that is to be ignored.

    Raises UsageError where there is no Dockerfile, DockerfileError for one that cannot be built.
    """
    name, content = _read(request)
    dockerfile = parse_dockerfile(content, file=name)
    here = Platform.local()
    found = dict.fromkeys(
        warning
        for platform in request.platforms or (here,)
        for warning in lint(
            dockerfile,
            PlatformArgs(str(platform), str(here)),
            target=request.target,
            build_args=request.build_args,
        )
    )
    click.echo(_as_json(found) if request.call.json else _as_text(found))
    return int(bool(found) and not request.call.ignore_status)


def _read(request: BuildRequest) -> tuple[str, bytes]:
    if request.dockerfile == "-" or request.context.kind is ContextKind.STDIN:
        return "Dockerfile", sys.stdin.buffer.read()
    path = Path(request.dockerfile or Path(request.context.location, "Dockerfile"))
    try:
        return str(path), path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _as_text(found: Iterable[LintWarning]) -> str:
    lines = [f"{one.span}: {one.rule}: {one.message}" for one in found]
    count = f"{len(lines)} warning{'s' * (len(lines) != 1)}" if lines else "no warnings"
    return "\n".join([*lines, f"Check complete, {count} found."])


def _as_json(found: Iterable[LintWarning]) -> str:
    return json.dumps({"warnings": [_entry(one) for one in found]}, indent=2)


def _entry(one: LintWarning) -> dict[str, Any]:
    places = {"start": {"line": one.span.line}, "end": {"line": one.span.end}}
    return {"ruleName": one.rule, "detail": one.message, "location": {"ranges": [places]}}
