"""Runs the gates of a section: those that read reports, those of the image, and programs of the
user.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shipline.errors import UsageError
from shipline.gates.context import GateContext
from shipline.gates.image import judge_image
from shipline.gates.judging import judge, only_warns
from shipline.gates.report_files import existing_files, read_reports
from shipline.gates.reports import ReportError
from shipline.gates.reports.fields import Fields
from shipline.gates.section import (
    CommandGate,
    Gate,
    GatesSection,
    ImageGate,
    ReportGate,
    VulnerabilitiesGate,
)
from shipline.gates.thresholds import skipped
from shipline.gates.verdict import Check, Location, Measurements, Outcome, Verdict, Verdicts
from shipline.gates.waivers import Waivers, read_waivers, waive_outside
from shipline.git import Git, GitError, is_ancestor, resolve
from shipline.processes import run_process
from shipline.tasks import TaskGroup
from shipline.units import counted
from shipline.values import replace

_OUTPUT_LIMIT = 16 << 20  # bytes read from standard output
_STDERR_TAIL = 2000  # bytes kept of standard error


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """How a program of the user ended; `problem` says why it has no result."""

    status: int = 0
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
) -> ProgramResult:
    """Run `command` in `root`, a string through the shell. Raises Cancelled."""
    arguments = ["/bin/sh", "-c", command] if isinstance(command, str) else [*command]
    if not arguments:
        return ProgramResult(problem="the command is empty")
    output, problem = bytearray(), ""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as errors:
        source.write(stdin)
        source.seek(0)
        try:
            ended = run_process(
                arguments,
                directory=root,
                environ=environ,
                timeout_s=timeout_s,
                write=lambda data: output.extend(data[: _OUTPUT_LIMIT + 1 - len(output)]),
                stdin=source,
                stderr=errors,
            )
        except OSError as error:
            return ProgramResult(problem=f"cannot run {arguments[0]}: {error.strerror}")
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _STDERR_TAIL))
        tail = errors.read().decode(errors="replace")
    if ended.timed_out:
        problem = f"it did not end within {timeout_s:g} s"
    elif len(output) > _OUTPUT_LIMIT:
        problem = f"it wrote more than {_OUTPUT_LIMIT >> 20} MiB"
    return ProgramResult(ended.status, bytes(output), tail, problem)


def shown_command(command: str | tuple[str, ...]) -> str:
    """The command as typed in a shell."""
    return command if isinstance(command, str) else shlex.join(command)


PROTOCOL = 1
_ALLOWED = (Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE, Outcome.SKIPPED)


def judge_command(
    rules: CommandGate, gate: str, context: GateContext, *, root: Path, environ: Mapping[str, str]
) -> tuple[list[Check], Measurements]:
    """The verdict of the program; ERROR if it gives none, or passes with a non-zero exit status."""
    request = json.dumps(command_input(gate, context)).encode()
    result = run_program(
        rules.run, root=root, environ=environ, timeout_s=rules.timeout.seconds, stdin=request
    )
    try:
        return [_parse_verdict(result)], Measurements()
    except ReportError as error:
        details = tuple(result.errors.splitlines()[-10:])
        hint = "`shipline explain gate-program` says what it must print"
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


def _parse_verdict(result: ProgramResult) -> Check:
    if result.problem:
        raise ReportError(result.problem, code="gate-program")
    ending = f"exited with status {result.status}" if result.status else "wrote nothing"
    if not result.output.strip():
        raise ReportError(f"the program {ending} and gave no verdict", code="gate-program")
    try:
        value = Fields(json.loads(result.output), "the verdict")
        outcome = Outcome(value.text("outcome"))
    except (ValueError, RecursionError):
        raise ReportError(
            "the program gave no verdict: its output is not a verdict in JSON", code="gate-program"
        ) from None
    if outcome not in _ALLOWED:
        raise ReportError(f"a program cannot answer {outcome}", code="gate-program")
    if result.status and outcome in (Outcome.PASS, Outcome.SKIPPED):
        raise ReportError(
            f"the program answered {outcome} but exited with status {result.status}",
            code="gate-program",
        )
    if not value.text("reason"):
        raise ReportError("the verdict has no reason", code="gate-program")
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


def merge_verdict(git: Git, base: str) -> Verdict:
    """Whether HEAD contains all of `base`; otherwise its reports say nothing about merged code.

    The merge commit that CI systems create for merge requests does. Raises GitError if `base` is
    not a commit.
    """
    tip = resolve(git, base)
    if not tip:
        raise GitError(
            f"there is no commit {base} in this clone",
            code="git-commit-missing",
            hint=f"git fetch origin {base}",
        )
    if is_ancestor(git, tip, "HEAD"):
        check = Check("up to date", Outcome.PASS, f"it contains all of {base}")
    else:
        behind = git.text("rev-list", "--count", f"HEAD..{tip}")
        commits = counted(int(behind), "commit that is", "commits that are")
        reason = f"{base} has {commits} not in this branch"
        hint = f"git merge {base}, then run the tests again"
        check = Check("up to date", Outcome.INCOMPLETE, reason, hint=hint)
    return Verdict("merge", "merge", (check,))


_NO_REPORTS: Mapping[str, Sequence[str]] = {}


@dataclass(frozen=True, slots=True)
class GateEnvironment:
    """Where gates run: report paths are relative to `root`, programs inherit `environ`.

    With `run_commands`, the commands that write reports run first.
    """

    root: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    run_commands: bool = True


def run_gates(
    section: GatesSection,
    context: GateContext,
    environment: GateEnvironment,
    *,
    names: Collection[str] = (),
    early: bool = False,
    reports: Mapping[str, Sequence[str]] = _NO_REPORTS,
) -> Verdicts:
    """The verdicts of all gates, of those in `names`, or with `early` of the early ones.

    `reports` replaces the report files of gates, by name. Gates run concurrently. A bad report is a
    verdict, not an error. Raises UsageError for an unknown name, ConfigError for waiver files that
    cannot be read, Cancelled.
    """
    selected = _selected(section, names, early)
    waivers = Waivers(
        [*section.waivers, *read_waivers(section.waiver_files, environment.root)], context
    )
    with TaskGroup() as group:
        tasks = [
            group.start(_run, section, gate, waivers, environment, reports.get(gate[0]))
            for gate in selected
        ]
    verdicts = tuple(
        waive_outside(task.result(), rules.blocks_in or section.blocks_in, context.environment)
        for task, (_, _, rules) in zip(tasks, selected, strict=True)
    )
    return Verdicts(
        verdicts,
        context.now,
        context.revision,
        _image_name(context),
        () if names or early else waivers.unused(verdicts),
        context.environment,
    )


def _selected(
    section: GatesSection, names: Collection[str], early: bool
) -> list[tuple[str, str, Gate]]:
    gates = [*section.gates()]
    known = [name for name, _, _ in gates]
    for name in names:
        if name not in known:
            hint = f"gates are {', '.join(known)}" if known else "no gate is configured"
            raise UsageError(f"there is no gate called {name!r}", code="gate-unknown", hint=hint)
    return [
        (name, kind, rules)
        for name, kind, rules in gates
        if (not names or name in names) and (not early or rules.early)
    ]


def _run(
    section: GatesSection,
    gate: tuple[str, str, Gate],
    waivers: Waivers,
    environment: GateEnvironment,
    reports: Sequence[str] | None,
) -> Verdict:
    name, kind, rules = gate
    warn_only = only_warns(rules, section.on_incomplete)
    if rules.skip:
        return Verdict(name, kind, (skipped("gate", rules.skip),))
    if isinstance(rules, ReportGate):
        if reports is not None:
            rules = replace(rules, reports=tuple(reports), run=())
        rules = replace(rules, max_age=rules.max_age or section.max_age)
        return _judge_reports(name, kind, rules, waivers, environment, warn_only)
    if isinstance(rules, ImageGate):
        checks, measured = judge_image(rules, waivers.context, name)
    else:
        checks, measured = judge_command(
            rules, name, waivers.context, root=environment.root, environ=environment.environ
        )
    verdict = Verdict(name, kind, tuple(checks), measurements=measured, advisory=warn_only)
    return waivers.waive(verdict)


def _judge_reports(
    name: str,
    kind: str,
    rules: ReportGate,
    waivers: Waivers,
    environment: GateEnvironment,
    warn_only: bool,
) -> Verdict:
    failure = (
        _run_report_command(rules, environment) if rules.run and environment.run_commands else None
    )
    vex = rules.vex if isinstance(rules, VulnerabilitiesGate) else ()
    files_read = read_reports(rules.paths, environment.root)
    verdict = judge(
        name,
        kind,
        rules,
        files_read,
        waivers,
        vex=read_reports(vex, environment.root),
        advisory=warn_only,
    )
    return replace(verdict, checks=(failure, *verdict.checks)) if failure else verdict


def _run_report_command(rules: ReportGate, environment: GateEnvironment) -> Check | None:
    """Run the command that writes the reports. Old reports are deleted first: a tool that crashes
    writes none, and exit statuses do not tell a crash from findings.
    """
    for file in existing_files(rules.paths, environment.root):
        file.unlink(missing_ok=True)
    result = run_program(
        rules.run,
        root=environment.root,
        environ=environment.environ,
        timeout_s=rules.timeout.seconds,
    )
    if not result.problem:
        return None
    reason = f"{shown_command(rules.run)}: {result.problem}"
    details = tuple(result.errors.splitlines()[-10:])
    return Check("run", Outcome.ERROR, reason, details=details)


def _image_name(context: GateContext) -> str:
    if context.image is None:
        return ""
    return "@".join(filter(None, (context.repository, context.image.digest)))
