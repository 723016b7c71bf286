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
        result = run_cancellable(
            lambda: engine.run_checks(request, step),
            lambda: step.warn("cancelling", "interrupt once more to exit at once"),
        )
    text = _as_json(result) if request.call.json else _as_text(result)
    if text:
        click.echo(text)
    if result.failure is not None:
        report(result.failure, settings)
        return 1
    return int(bool(result.warnings) and not request.call.ignore_status)


def _as_text(result: CheckResult) -> str:
    """As buildx has it: rule and link, what it asks for, what was found, and where."""
    from shipline.observe import excerpt

    blocks = [
        "\n".join(
            [
                f"WARNING: {warning.rule} - {rule_url(warning.rule)}",
                DESCRIPTIONS[warning.rule],
                warning.message,
                *excerpt(warning.span),
            ]
        )
        for warning in result.warnings
    ]
    if not blocks:
        return "" if result.failure else "Check complete, no warnings found."
    count = "1 warning has" if len(blocks) == 1 else f"{len(blocks)} warnings have"
    return "\n\n".join([f"Check complete, {count} been found!", *blocks])


def _as_json(result: CheckResult) -> str:
    document: dict[str, Any] = {"warnings": [_entry(warning) for warning in result.warnings]}
    if result.failure is not None:
        document["buildError"] = _build_error(result.failure)
    return json.dumps(document, indent=2)


def _build_error(failure: ShiplineError) -> dict[str, Any]:
    return {"message": failure.message, "location": _location(failure.span)}


def _location(span: Span | None) -> dict[str, Any]:
    """A range for each line, as in buildx."""
    if span is None:
        return {}
    lines = range(span.line, span.end + 1)
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}} for line in lines]}


def _entry(warning: LintWarning) -> dict[str, Any]:
    return {
        "ruleName": warning.rule,
        "description": DESCRIPTIONS[warning.rule],
        "url": rule_url(warning.rule),
        "detail": warning.message,
        "location": _location(warning.span),
    }
