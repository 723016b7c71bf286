"""The steps of the project: commands and scanners, with the reports that they leave.

A report that lay there before the step runs is removed first, so what is judged afterwards was
written by this very run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shipline.errors import StepFailed, UsageError
from shipline.events import Step as Span
from shipline.oci import Platform, Reference
from shipline.ship.chain import Outcome
from shipline.ship.command import Ended, argv_of, environment, run_command
from shipline.ship.feeds import findings_in
from shipline.ship.plan import command_shown
from shipline.ship.runs import Recorder
from shipline.ship.scanners import scan_command, scan_variables, scanner
from shipline.ship.section import Step

_SCRIPT = re.compile(r"[;&|\n]")
_CHUNK = 1 << 20  # bytes
_NO_ANSWER = 126  # from here on the shell could not run it, or a signal ended it
_SHOWN = 20  # findings in the failure of a step


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image that steps look at: where it is, and its manifest for each platform."""

    name: Reference
    platforms: tuple[tuple[Platform, Reference], ...]

    def variables(self) -> dict[str, str]:
        """What a command finds in its environment."""
        found = {
            "SHIPLINE_IMAGE": str(self.name),
            "SHIPLINE_DIGEST": str(self.name.digest),
            "SHIPLINE_REPOSITORY": self.name.name,
            "SHIPLINE_PLATFORMS": ",".join(str(platform) for platform, _ in self.platforms),
        }
        for platform, one in self.platforms:
            word = str(platform).upper().replace("/", "_").replace("-", "_")
            found[f"SHIPLINE_IMAGE_{word}"] = str(one)
        return found


@dataclass(frozen=True, slots=True)
class Commands:
    """Runs the steps of one run. `facts` are variables that every step gets."""

    root: Path
    environ: Mapping[str, str]
    facts: Mapping[str, str]
    recorder: Recorder

    def run(
        self, name: str, step: Step, pushed: Pushed | None, span: Span, *, judged: bool = False
    ) -> Outcome:
        """Run a step to its end. Raises StepFailed, unless its failure is allowed, or `judged`:
        then findings in its reports are why it failed, and gates judge them.
        """
        log = self.recorder.log(name)
        log.unlink(missing_ok=True)
        for attempt in range(1, step.retries + 2):
            for path in _reports(self.root, step):
                path.unlink()
            ended, reports = self._attempt(name, step, pushed, span)
            if ended.ok:
                written = {**reports, **self._written(name, step)}
                return Outcome(reports=written, attempts=attempt)
            if judged and self._explained(ended, step):
                reason = f"{_how(ended, step)}: the gates judge what it found"
                return Outcome(reports=self._written(name, step), reason=reason, attempts=attempt)
            if attempt <= step.retries:
                span.warn(f"{_how(ended, step)}, trying again ({attempt} of {step.retries})")
        if step.allow_failure:
            span.warn(f"{name} {_how(ended, step)}, which is allowed")
            reason = f"{_how(ended, step)}, which is allowed"
            return Outcome(tolerated=True, reason=reason, attempts=attempt)
        raise self._failure(name, step, ended)

    def _explained(self, ended: Ended, step: Step) -> bool:
        """Whether it ended by itself, wrote all of its reports, and found something."""
        if ended.timed_out or ended.status >= _NO_ANSWER:
            return False
        whole = all(any(_matching(self.root, pattern)) for pattern in step.report_paths)
        return whole and bool(findings_in(_reports(self.root, step)))

    def _failure(self, name: str, step: Step, ended: Ended) -> StepFailed:
        """With what its reports say, since many tools then print nothing."""
        log = ended.log or ("(it printed nothing)",)
        failure = StepFailed(f"{name} {_how(ended, step)}", status=ended.status, log=log)
        found = findings_in(_reports(self.root, step))
        for line in found[:_SHOWN]:
            failure.add_note(line)
        if len(found) > _SHOWN:
            failure.add_note(f"and {len(found) - _SHOWN} more, in {', '.join(step.report_paths)}")
        return failure

    def _attempt(
        self, name: str, step: Step, pushed: Pushed | None, span: Span
    ) -> tuple[Ended, dict[str, str]]:
        if step.scanner is None:
            variables = {**(pushed.variables() if pushed else {}), **step.env}
            return self._command(name, step, argv_of(step.run), variables, span), {}
        if pushed is None:
            raise UsageError(f"{name}: there is no image to scan")
        found: dict[str, str] = {}
        for platform, image in pushed.platforms:
            report = self.recorder.report(name, f"{platform}.{scanner(step.scanner).suffix}")
            report.unlink(missing_ok=True)
            argv = scan_command(step.scanner, str(image), str(report))
            variables = {**scan_variables(step.scanner, image.host), **step.env}
            ended = self._command(name, step, argv, variables, span)
            if not ended.ok:
                return ended, {}
            _require(report, name)
            found[str(report)] = file_digest(report)
        return ended, found

    def _command(
        self,
        name: str,
        step: Step,
        argv: tuple[str, ...],
        variables: Mapping[str, str],
        span: Span,
    ) -> Ended:
        more = {**self.facts, "SHIPLINE_STEP": name, **variables}
        with self.recorder.log(name).open("ab") as log:

            def write(data: bytes) -> None:
                span.output(data)
                log.write(data)
                log.flush()

            return run_command(
                argv,
                directory=self.root / step.working_directory,
                environ=environment(self.environ, step.pass_env, more),
                timeout_s=step.timeout.seconds,
                write=write,
            )

    def _written(self, name: str, step: Step) -> dict[str, str]:
        """The digests of the reports. Raises StepFailed for one that was not written."""
        found: dict[str, str] = {}
        for pattern in step.report_paths:
            paths = list(_matching(self.root, pattern))
            if not paths:
                raise StepFailed(
                    f"{name} passed, but did not write its report {pattern}",
                    status=0,
                    hint="correct the path under `reports`, or the command",
                )
            found |= {str(path.relative_to(self.root)): file_digest(path) for path in paths}
        return found


def reproduction(step: Step, root: Path) -> str:
    """What a person types to see the failure of a step alone."""
    place = shlex.quote(os.path.normpath(root / step.working_directory))
    variables = [f"{name}={value}" for name, value in step.env.items()]
    command = command_shown(step)
    if isinstance(step.run, str) and step.run and (variables or _SCRIPT.search(command.strip())):
        command = f"sh -ec {_quoted(command.strip())}"
    if variables:
        command = f"env {shlex.join(variables)} {command}"
    return f"cd {place} && {command}"


def _quoted(script: str) -> str:
    """A script as one word and one line for any shell: a box marks the beginnings of lines."""
    if "\n" not in script:
        return shlex.quote(script)
    escaped = script.replace("\\", "\\\\").replace("\n", "\\n")
    return f'"$(printf %b {shlex.quote(escaped)})"'


def file_digest(path: Path) -> str:
    """`sha256:...` of a file, or empty where there is none."""
    seen = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                seen.update(data)
    except OSError:
        return ""
    return f"sha256:{seen.hexdigest()}"


def _how(ended: Ended, step: Step) -> str:
    return f"took more than {step.timeout}" if ended.timed_out else f"ended with {ended.status}"


def _reports(root: Path, step: Step) -> Iterator[Path]:
    for pattern in step.report_paths:
        yield from _matching(root, pattern)


def _matching(root: Path, pattern: str) -> Iterator[Path]:
    for path in root.glob(pattern):
        if path.is_file():
            yield path


def _require(report: Path, name: str) -> None:
    if not report.is_file():
        raise StepFailed(f"{name} passed, but wrote no report", status=0)
