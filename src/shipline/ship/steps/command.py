"""Steps of the project: commands and scanners, with the reports that they write.

Old reports are deleted before a step starts, so that gates judge those of this run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shipline.deliver.commands import CommandResult, argv_of, environment, run_command, secrets_in
from shipline.errors import StepFailed, UsageError
from shipline.globs import glob
from shipline.ship.plan import (
    PipelineStep,
    PlanInput,
    ProjectConfig,
    StepContext,
    StepKind,
    StepOutcome,
)
from shipline.ship.record import as_json
from shipline.ship.reports import SCANNERS, findings_in, left_to_gates
from shipline.ship.section import StepSection, When, as_tuple
from shipline.ship.steps.build import PushedImage, pushed_images

if TYPE_CHECKING:
    from shipline.events import Step as Span
    from shipline.oci import Digest, Reference
    from shipline.tags import Event

_SCRIPT = re.compile(r"[;&|\n]")
_NOT_RUN = 126  # from here on the shell could not run it, or a signal ended it (sh(1))
_SHOWN = 20  # findings in the failure of a step
_MISSING = 127  # the status of sh for a program that it does not find
_MISSING_HINT = (
    "a program was not found on the PATH: install it, or activate the environment that has it"
)


def _steps(inputs: PlanInput) -> Iterator[PipelineStep]:
    for name, step in inputs.pipeline.commands.items():
        first, _, rest = command_text(step).strip().partition("\n")
        implied = ("build",) if step.scanner and "build" not in step.needs else ()
        yield PipelineStep(
            name=name,
            kind="command",
            title=f"{first} ..." if rest else first or name,
            command=command_text(step),
            compared=_key(step),
            run=_CommandRunner(name, step).run,
            needs=(*step.needs, *implied),
            skip=unmet_condition(step.when, inputs.event, inputs.environ),
            programs=(step.scanner,) if step.scanner else (),
            on_image=step.after_build,
            own_log=True,
        )


def _key(step: StepSection) -> object:
    return {
        "run": as_json(step.run),
        "scanner": step.scanner,
        "directory": step.working_directory,
        "env": as_json(step.env),
        "pass-env": as_json(step.pass_env),
        "reports": as_json(step.reports),
        "allow-failure": step.allow_failure,
    }


def _missing(project: ProjectConfig) -> Iterator[str]:
    """Only for steps without `needs`, since those could create the directory."""
    for name, step in project.pipeline.commands.items():
        place = step.working_directory
        if not step.needs and not (project.root / place).is_dir():
            yield f"steps.{name}.working-directory: there is no directory {place}"


COMMAND = StepKind(
    name="command",
    steps=_steps,
    names=lambda project: project.pipeline.commands,
    missing=_missing,
    uses_decision=False,
)


@dataclass(frozen=True, slots=True)
class _CommandRunner:
    """Runs a command of the project."""

    name: str
    step: StepSection

    def run(self, context: StepContext, span: Span) -> StepOutcome:
        """If gates judge all of its reports, findings in them do not fail the step."""
        step, root = self.step, context.project.root
        gates = None if context.plan.skips("gates") else context.project.gates
        judged = left_to_gates(gates, step)
        context.recorder.log(self.name).unlink(missing_ok=True)
        for attempt in range(1, step.retries + 2):
            for path in _reports(root, step):
                path.unlink(missing_ok=True)  # two links may lead to one file
            ended, reports = self._attempt(context, span)
            if ended.ok:
                written = {**reports, **self._written(root)}
                return StepOutcome(reports=written, attempts=attempt)
            how = _ending_text(ended, step)
            if judged and _explained(ended, step, root):
                return StepOutcome(
                    reports=self._written(root),
                    reason=f"{how}: the gates judge what it found",
                    attempts=attempt,
                )
            if attempt <= step.retries:
                span.warn(f"{how}, trying again ({attempt} of {step.retries})")
        if step.allow_failure:
            span.warn(f"{self.name} {how}, which is allowed")
            return StepOutcome(tolerated=True, reason=f"{how}, which is allowed", attempts=attempt)
        raise self._failure(root, ended)

    def _attempt(self, context: StepContext, span: Span) -> tuple[CommandResult, dict[str, str]]:
        """Run the command once, a scanner once for each platform; returns the reports of scanners
        too.
        """
        step = self.step
        images = pushed_images(context.run) if step.after_build else {}
        if step.scanner is None:
            variables = image_variables(images, context.images)
            return self._start(argv_of(step.run), variables, context, span), {}
        if not images:
            raise UsageError(f"{self.name}: there is no image to scan", code="build-not-run")
        scanner, ended, reports = SCANNERS[step.scanner], CommandResult(0, ()), dict[str, str]()
        for target, platform, digest in _manifests(images):
            repository = context.images[target]
            report = context.recorder.report(self.name, target, f"{platform}.{scanner.suffix}")
            report.unlink(missing_ok=True)
            argv = scanner.command(str(repository.at(digest)), str(report))
            ended = self._start(argv, scanner.environ(repository.host), context, span)
            if not ended.ok:
                return ended, {}
            if not report.is_file():
                raise StepFailed(
                    f"{self.name} passed, but wrote no report", code="step-no-report", status=0
                )
            reports[str(report)] = file_digest(report)
        return ended, reports

    def _start(
        self, argv: tuple[str, ...], variables: Mapping[str, str], context: StepContext, span: Span
    ) -> CommandResult:
        step, root = self.step, context.project.root
        facts = {
            "SHIPLINE": "true",
            "SHIPLINE_RUN": context.run.id,
            "SHIPLINE_COMMIT": context.run.commit,
            "SHIPLINE_BRANCH": context.inputs.branch,
            "SHIPLINE_ROOT": str(root),
            "SHIPLINE_STEP": self.name,
        }
        with context.recorder.log(self.name).open("ab") as log:

            def write(data: bytes) -> None:
                span.output(data)
                log.write(data)
                log.flush()

            return run_command(
                argv,
                directory=root / step.working_directory,
                environ=environment(
                    context.environment.environ, step.pass_env, {**facts, **variables, **step.env}
                ),
                timeout_s=step.timeout.seconds,
                write=write,
                hidden=secrets_in(context.environment.environ, step.pass_env),
            )

    def _written(self, root: Path) -> dict[str, str]:
        """The digests of the reports. Raises StepFailed for one that was not written."""
        digests: dict[str, str] = {}
        for pattern in self.step.report_paths:
            paths = _matching(root, pattern)
            if not paths:
                raise StepFailed(
                    f"{self.name} passed, but did not write its report {pattern}",
                    code="step-no-report",
                    status=0,
                    hint="correct the path under `reports`, or the command",
                )
            digests |= {str(path.relative_to(root)): file_digest(path) for path in paths}
        return digests

    def _failure(self, root: Path, ended: CommandResult) -> StepFailed:
        """The error, with the findings in its reports, since many tools print nothing."""
        step = self.step
        log = ended.log or ("(no output)",)
        failure = StepFailed(
            f"{self.name} {_ending_text(ended, step)}",
            code="command-exit",
            status=ended.status,
            log=log,
            hint=_MISSING_HINT if ended.status == _MISSING else "",
        )
        findings = findings_in(_reports(root, step))
        for line in findings[:_SHOWN]:
            failure.add_note(line)
        if len(findings) > _SHOWN:
            failure.add_note(
                f"and {len(findings) - _SHOWN} more, in {', '.join(step.report_paths)}"
            )
        return failure


def unmet_condition(when: When, event: Event, environ: Mapping[str, str]) -> str:
    """The condition of `when` that does not hold; empty if all do."""
    for name, value, patterns in (
        ("branch", event.branch, as_tuple(when.branch)),
        ("tag", event.tag, as_tuple(when.tag)),
        ("event", event.kind, as_tuple(when.event)),
    ):
        if patterns and not any(glob(pattern).fullmatch(value) for pattern in patterns):
            return f"when: the {name} is {value or 'unknown'}, not {' or '.join(patterns)}"
    for variable, pattern in when.env.items():
        if not glob(pattern).fullmatch(environ.get(variable, "")):
            return f"when: {variable} does not match {pattern!r}"
    return ""


def command_text(step: StepSection) -> str:
    """The command of a step as one would type it; a script is unchanged."""
    if step.scanner:
        return str(SCANNERS[step.scanner])
    return step.run if isinstance(step.run, str) else shlex.join(step.run)


def image_variables(
    images: Mapping[str, PushedImage], repositories: Mapping[str, Reference]
) -> dict[str, str]:
    """The variables with the images and their platforms; of several, the name of the target is in
    those of each image.
    """
    variables: dict[str, str] = {}
    for target, image in images.items():
        name = repositories[target].at(image.digest)
        prefix = f"SHIPLINE_{_variable(target)}_" if target else "SHIPLINE_"
        variables |= {
            f"{prefix}IMAGE": str(name),
            f"{prefix}DIGEST": str(image.digest),
            f"{prefix}REPOSITORY": name.name,
            f"{prefix}PLATFORMS": ",".join(platform for platform, _ in image.platforms),
        }
        for platform, digest in image.platforms:
            variables[f"{prefix}IMAGE_{_variable(platform)}"] = str(name.at(digest))
    if any(images):
        variables["SHIPLINE_TARGETS"] = ",".join(images)
    return variables


def _variable(text: str) -> str:
    """The text as part of the name of a variable."""
    return text.upper().replace("/", "_").replace("-", "_")


def _manifests(images: Mapping[str, PushedImage]) -> Iterator[tuple[str, str, Digest]]:
    """Each platform of each image: its target, platform, and manifest."""
    for target, image in images.items():
        yield from ((target, platform, digest) for platform, digest in image.platforms)


def reproduction(step: StepSection, root: Path) -> str:
    """A shell command that reproduces the failure of a step."""
    place = shlex.quote(os.path.normpath(root / step.working_directory))
    variables = [f"{name}={value}" for name, value in step.env.items()]
    command = command_text(step)
    if isinstance(step.run, str) and step.run and (variables or _SCRIPT.search(command.strip())):
        command = f"sh -ec {_quoted(command.strip())}"
    if variables:
        command = f"env {shlex.join(variables)} {command}"
    return f"cd {place} && {command}"


def _quoted(script: str) -> str:
    """A script as one shell word on one line, because the error box prefixes lines."""
    if "\n" not in script:
        return shlex.quote(script)
    escaped = script.replace("\\", "\\\\").replace("\n", "\\n")
    return f'"$(printf %b {shlex.quote(escaped)})"'


def file_digest(path: Path) -> str:
    """`sha256:...` of a file; empty if it does not exist."""
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return ""


def _explained(ended: CommandResult, step: StepSection, root: Path) -> bool:
    """Whether findings explain the failure: the command ended by itself and wrote all reports."""
    if ended.timed_out or ended.status >= _NOT_RUN:
        return False
    whole = all(_matching(root, pattern) for pattern in step.report_paths)
    return whole and bool(findings_in(_reports(root, step)))


def _ending_text(ended: CommandResult, step: StepSection) -> str:
    return f"took more than {step.timeout}" if ended.timed_out else f"ended with {ended.status}"


def _reports(root: Path, step: StepSection) -> Iterator[Path]:
    for pattern in step.report_paths:
        yield from _matching(root, pattern)


def _matching(root: Path, pattern: str) -> list[Path]:
    """The reports that the gates would find."""
    from shipline.gates.report_files import matching_files

    return matching_files(pattern, root)
