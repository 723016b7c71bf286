"""Gates that are programs of the user: they read JSON from standard input and write a verdict as
JSON to standard output, within a time limit.
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

_OUTPUT_LIMIT = 16 << 20  # bytes read from standard output
_STDERR_TAIL = 2000  # bytes kept of standard error


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """The end of a program: `status` is None if it could not start or was stopped, and `problem`
    says why.
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
    """Run `command` in `root`, a string through the shell. Its process group is killed when it
    ends, at the time limit, and when the calling thread is cancelled; then raises Cancelled.
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
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _STDERR_TAIL))
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
    """The command as typed in a shell."""
    return command if isinstance(command, str) else shlex.join(command)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Why the process was stopped; empty if it ended by itself."""
    group = ProcessGroup(process)
    try:
        with on_cancel(group.kill):
            return "" if group.ended(timeout_s) else f"it did not end within {timeout_s:g} s"
    finally:
        group.end()


PROTOCOL = 1
_ALLOWED = (Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE, Outcome.SKIPPED)


def judge_command(
    rules: CommandGate, gate: str, context: GateContext, *, root: Path, environ: Mapping[str, str]
) -> tuple[list[Check], Measurements]:
    """The verdict of the program; ERROR if it gives none, or passes with a non-zero exit status."""
    request = json.dumps(command_input(gate, context)).encode()
    result = run_program(
        rules.run,
        root=root,
        environ=environ,
        timeout_s=rules.timeout.seconds,
        stdin=request,
    )
    try:
        return [_parse_verdict(result)], Measurements()
    except ReportError as error:
        details = tuple(result.errors.splitlines()[-10:])
        hint = "see the protocol in docs/gates.md"
        return [Check("command", Outcome.ERROR, error.message, hint=hint, details=details)], (
            Measurements()
        )


def command_input(gate: str, context: GateContext) -> dict[str, Any]:
    """The input of the program, version 1 of the protocol (docs/gates.md)."""
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
                    "platform": platform.platform,
                    "digest": platform.digest,
                    "size": platform.size,
                    "layers": platform.layers,
                    "user": platform.user,
                    "labels": dict(platform.labels),
                }
                for platform in image.platforms
            ],
        }
        if image
        else None,
        "changed": sorted(context.changes.lines) if context.changes else None,
    }


def _parse_verdict(result: ProcessResult) -> Check:
    if result.problem:
        raise ReportError(result.problem)
    ending = f"exited with status {result.status}" if result.status else "wrote nothing"
    if not result.output.strip():
        raise ReportError(f"the program {ending} and gave no verdict")
    try:
        value = Fields(json.loads(result.output), "the verdict")
        outcome = Outcome(value.text("outcome"))
    except (ValueError, RecursionError):
        raise ReportError(
            "the program gave no verdict: its output is not a verdict in JSON"
        ) from None
    if outcome not in _ALLOWED:
        raise ReportError(f"a program cannot answer {outcome}")
    if result.status and outcome in (Outcome.PASS, Outcome.SKIPPED):
        raise ReportError(f"the program answered {outcome} but exited with status {result.status}")
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
        tuple(finding.text("message") for finding in findings),
        tuple(
            Location(finding.text("path"), finding.count("line"), finding.text("message"))
            for finding in findings
            if finding.text("path")
        ),
    )
