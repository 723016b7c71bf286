"""`shipline build --check`: what the Dockerfile could do better, without building it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from shipline.build import BuildRequest
from shipline.build.contexts import main_rules, read_dockerfile
from shipline.build.linting import configured, warnings_of
from shipline.build.stdin import open_stdin
from shipline.dockerfile import (
    DESCRIPTIONS,
    LintWarning,
    check_options,
    enforce,
    resolve_target,
    rule_url,
)


def check(request: BuildRequest) -> int:
    """Print what is found for any platform; 1 if there is something, unless that is to be ignored.

    Raises UsageError where there is no Dockerfile, DockerfileError for one that cannot be built or
    that does not allow the warnings it has.
    """
    with TemporaryDirectory() as scratch:
        request, stdin = open_stdin(request, sys.stdin.buffer, Path(scratch))
        dockerfile = configured(read_dockerfile(request, stdin), request)
        target = resolve_target(dockerfile, request.target) if request.target else None
        found = warnings_of(request, dockerfile, main_rules(request), target=target)
    click.echo(_as_json(found) if request.call.json else _as_text(found))
    if request.call.ignore_status:
        return 0
    enforce(found, check_options(dockerfile))
    return int(bool(found))


def _as_text(found: Iterable[LintWarning]) -> str:
    """As buildx has it: rule and link, what it asks for, what was found, and where."""
    from shipline.observe import excerpt

    blocks = [
        "\n".join(
            [
                f"WARNING: {one.rule} - {rule_url(one.rule)}",
                DESCRIPTIONS[one.rule],
                one.message,
                *excerpt(one.span),
            ]
        )
        for one in found
    ]
    if not blocks:
        return "Check complete, no warnings found."
    count = "1 warning has" if len(blocks) == 1 else f"{len(blocks)} warnings have"
    return "\n\n".join([f"Check complete, {count} been found!", *blocks])


def _as_json(found: Iterable[LintWarning]) -> str:
    return json.dumps({"warnings": [_entry(one) for one in found]}, indent=2)


def _entry(one: LintWarning) -> dict[str, Any]:
    places = {"start": {"line": one.span.line}, "end": {"line": one.span.end}}
    return {
        "ruleName": one.rule,
        "description": DESCRIPTIONS[one.rule],
        "url": rule_url(one.rule),
        "detail": one.message,
        "location": {"ranges": [places]},
    }
