"""`shipline build --check`: what the Dockerfile could do better, without building it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from shipline.build import BuildRequest, CheckResult
from shipline.cli import engine
from shipline.cli.failures import ProgramSettings, report
from shipline.cli.interrupts import run_cancellable
from shipline.dockerfile import DESCRIPTIONS, LintWarning, rule_url
from shipline.errors import ShiplineError, Span
from shipline.events import Sink, Stream


def check(request: BuildRequest, sinks: Iterable[Sink], settings: ProgramSettings) -> int:
    """Print what is found for any platform: 1 for warnings, unless those are to be ignored, and for
    a build that would fail before its first step.

    Raises UsageError where there is no Dockerfile.
    """
    with Stream(*sinks) as stream, stream.step("check") as step:
        found = run_cancellable(
            lambda: engine.run_checks(request, step),
            lambda: step.warn("cancelling", "interrupt once more to exit at once"),
        )
    text = _as_json(found) if request.call.json else _as_text(found)
    if text:
        click.echo(text)
    if found.failure is not None:
        report(found.failure, settings)
        return 1
    return int(bool(found.warnings) and not request.call.ignore_status)


def _as_text(found: CheckResult) -> str:
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
        for one in found.warnings
    ]
    if not blocks:
        return "" if found.failure else "Check complete, no warnings found."
    count = "1 warning has" if len(blocks) == 1 else f"{len(blocks)} warnings have"
    return "\n\n".join([f"Check complete, {count} been found!", *blocks])


def _as_json(found: CheckResult) -> str:
    document: dict[str, Any] = {"warnings": [_entry(one) for one in found.warnings]}
    if found.failure is not None:
        document["buildError"] = _build_error(found.failure)
    return json.dumps(document, indent=2)


def _build_error(failure: ShiplineError) -> dict[str, Any]:
    return {"message": failure.message, "location": _location(failure.span)}


def _location(span: Span | None) -> dict[str, Any]:
    """A range for each line, as in buildx."""
    if span is None:
        return {}
    lines = range(span.line, span.end + 1)
    return {"ranges": [{"start": {"line": one}, "end": {"line": one}} for one in lines]}


def _entry(one: LintWarning) -> dict[str, Any]:
    return {
        "ruleName": one.rule,
        "description": DESCRIPTIONS[one.rule],
        "url": rule_url(one.rule),
        "detail": one.message,
        "location": _location(one.span),
    }
