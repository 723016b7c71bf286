"""Gates that are programs of the user: JSON on their input, a verdict as JSON on their output,
within a time limit.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipline.gates.context import GateContext
from shipline.gates.reports import ReportError
from shipline.gates.reports.fields import Fields
from shipline.gates.section import CommandGate
from shipline.gates.verdict import Check, Location, Measurements, Outcome
from shipline.processes import ProcessGroup
from shipline.tasks import check, on_cancel

_OUTPUT_LIMIT = 16 << 20  # bytes of output that are read
_TAIL = 2000  # characters of its errors that are kept


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a program ended: `status` is None where it could not start or was stopped, and
    `problem` says why.
    """

    status: int | None
    output: bytes = b""
    errors: str = ""
    problem: str = ""


def run_program(
    command: str | tuple[str, ...],
    *,
    root: Path,
    environ: Mapping[str, str],
    timeout_s: float,
    stdin: bytes = b"",
) -> ProcessResult:
    """Run `command` in `root`; a text is given to the shell. Its whole process group is killed at
    the end, at the time limit, and when the calling thread is cancelled (then raises Cancelled).
    """
    check()
    arguments = ["/bin/sh", "-c", command] if isinstance(command, str) else [*command]
    if not arguments:
        return ProcessResult(None, problem="the command is empty")
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output:
        source.write(stdin)
        source.seek(0)
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    arguments,
                    cwd=root,
                    env={**environ},
                    stdin=source,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError as error:
                problem = f"cannot run {arguments[0]}: {error.strerror}"
                return ProcessResult(None, problem=problem)
            problem = _wait(process, timeout_s)
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TAIL))
            tail = errors.read().decode(errors="replace")
        output.seek(0)
        data = output.read(_OUTPUT_LIMIT + 1)
    check()
    if len(data) > _OUTPUT_LIMIT:
        problem = problem or f"it wrote more than {_OUTPUT_LIMIT >> 20} MiB"
    return ProcessResult(
        None if problem else process.returncode, data[:_OUTPUT_LIMIT], tail, problem
    )


def shown_command(command: str | tuple[str, ...]) -> str:
    """The command as a person would type it."""
    return command if isinstance(command, str) else shlex.join(command)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Why it was stopped; empty where it ended by itself."""
    group = ProcessGroup(process)
    try:
        with on_cancel(group.kill):
            return "" if group.ended(timeout_s) else f"it did not end within {timeout_s:g} s"
    finally:
        group.end()


PROTOCOL = 1
_TELLS = (Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE, Outcome.SKIPPED)


def judge_command(
    rules: CommandGate, gate: str, context: GateContext, *, root: Path, environ: Mapping[str, str]
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


def question_of(gate: str, context: GateContext) -> dict[str, Any]:
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


def _answer(ended: ProcessResult) -> Check:
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
            Location(one.text("path"), one.count("line"), one.text("message"))
            for one in findings
            if one.text("path")
        ),
    )
