"""Gates that are programs of the user: JSON on their input, a verdict as JSON on their output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipline.policy.gates.context import Context
from shipline.policy.gates.processes import Ended, run_program
from shipline.policy.gates.reports import ReportError
from shipline.policy.gates.reports.fields import Fields
from shipline.policy.gates.section import CommandGate
from shipline.policy.gates.verdict import Check, Measurements, Outcome, Place

PROTOCOL = 1
_TELLS = (Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE, Outcome.SKIPPED)


def judge_command(
    rules: CommandGate, gate: str, context: Context, *, root: Path, environ: Mapping[str, str]
) -> tuple[list[Check], Measurements]:
    """The program's own verdict; `error` where it gives none, or ends badly after a good one."""
    question = json.dumps(question_of(gate, context)).encode()
    ended = run_program(
        rules.run,
        root=root,
        environ=environ,
        timeout_s=rules.timeout.seconds,
        stdin=question,
    )
    try:
        return [_answer(ended)], Measurements()
    except ReportError as error:
        details = tuple(ended.errors.splitlines()[-10:])
        hint = "see the protocol in docs/gates.md"
        return [Check("command", Outcome.ERROR, error.message, hint=hint, details=details)], (
            Measurements()
        )


def question_of(gate: str, context: Context) -> dict[str, Any]:
    """What the program is told, version 1 of the protocol."""
    image = context.image
    return {
        "protocol": PROTOCOL,
        "gate": gate,
        "now": context.now.isoformat(),
        "revision": context.revision,
        "environment": context.environment,
        "image": {
            "repository": context.repository,
            "digest": image.digest,
            "platforms": [
                {
                    "platform": one.platform,
                    "digest": one.digest,
                    "size": one.size,
                    "layers": one.layers,
                    "user": one.user,
                    "labels": dict(one.labels),
                }
                for one in image.platforms
            ],
        }
        if image
        else None,
        "changed": sorted(context.changes.lines) if context.changes else None,
    }


def _answer(ended: Ended) -> Check:
    if ended.problem:
        raise ReportError(ended.problem)
    told = f"ended with status {ended.status}" if ended.status else "said nothing"
    if not ended.output.strip():
        raise ReportError(f"the program {told} and gave no verdict")
    try:
        value = Fields(json.loads(ended.output), "the verdict")
        outcome = Outcome(value.text("outcome"))
    except (ValueError, RecursionError):
        raise ReportError(
            "the program gave no verdict: its output is not the JSON of one"
        ) from None
    if outcome not in _TELLS:
        raise ReportError(f"a program cannot answer {outcome}")
    if ended.status and outcome in (Outcome.PASS, Outcome.SKIPPED):
        raise ReportError(f"the program answered {outcome} and ended with status {ended.status}")
    if not value.text("reason"):
        raise ReportError("the verdict has no reason")
    findings = value.children("findings")
    return Check(
        "command",
        outcome,
        value.text("reason"),
        value.text("measured"),
        value.text("limit"),
        value.text("hint"),
        tuple(one.text("message") for one in findings),
        tuple(
            Place(one.text("path"), one.count("line"), one.text("message"))
            for one in findings
            if one.text("path")
        ),
    )
