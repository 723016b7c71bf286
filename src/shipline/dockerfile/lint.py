"""The build checks: what works, but should not be written so.

Source: Docker manual, "Build checks", whose rule names and messages these are. A rule yields
findings; `lint` drops those that the file asks to skip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shipline.dockerfile.checks import CheckOptions
from shipline.dockerfile.fields import located
from shipline.dockerfile.ignore import IgnoreRules
from shipline.dockerfile.lintrules import FILE_RULES, Finding
from shipline.dockerfile.lintstages import (
    ImageEnv,
    StageWalk,
    base_findings,
    base_platform_finding,
)
from shipline.dockerfile.parser import check_comments
from shipline.dockerfile.plan import stage_plan
from shipline.dockerfile.predefined import PlatformArgs
from shipline.dockerfile.scope import open_scope
from shipline.dockerfile.stages import Dockerfile, Stage
from shipline.errors import DockerfileError, Span


@dataclass(frozen=True, slots=True)
class LintWarning:
    """A rule that was broken, why, and where."""

    rule: str
    message: str
    span: Span


def lint(
    dockerfile: Dockerfile,
    platforms: PlatformArgs,
    *,
    target: Stage | None = None,
    build_args: Mapping[str, str] | None = None,
    ignore: IgnoreRules | None = None,
    image_env: ImageEnv = lambda image: None,
) -> tuple[LintWarning, ...]:
    """The warnings of a file in the order of its lines, each once.

    With `target` only the stages that it needs are looked at, beside the rules for the file as a
    whole; else all. `ignore` are the ignore rules of the build context, `image_env` gives the
    variables of a base image (`NAME=value`) where they are known.

    Raises DockerfileError where the file cannot be built at all.
    """
    options = check_options(dockerfile)
    stage = target or dockerfile.stages[-1]
    scope = open_scope(dockerfile, platforms, build_args=build_args, target=stage.name)
    plan = stage_plan(dockerfile, stage, lambda s: scope.base_of(s).name)
    findings: list[Finding] = []
    for rule in FILE_RULES:
        findings += rule(dockerfile)
    findings += base_findings(dockerfile, scope, platforms)
    walk = StageWalk(dockerfile, scope, ignore or IgnoreRules(), image_env)
    for item in plan.stages if target else dockerfile.stages:
        findings += walk.findings(item)
    return _wanted(findings, options)


def lint_base_platform(
    dockerfile: Dockerfile, stage: Stage, *, expected: str, actual: str
) -> tuple[LintWarning, ...]:
    """InvalidBaseImagePlatform, for when the base image of `stage` is known.

    The platforms are `os/arch[/variant]`: the one that was wanted, the one that the image has.
    """
    found = base_platform_finding(stage, expected, actual)
    return _wanted([found] if found else [], check_options(dockerfile))


def check_options(dockerfile: Dockerfile) -> CheckOptions:
    """The options of the file's `check` directive.

    Raises DockerfileError for one that cannot be read.
    """
    directives = dockerfile.directives
    with located(dict(directives.spans).get("check", dockerfile.stages[0].span)):
        return CheckOptions.parse(directives.check)


def enforce(warnings: Iterable[LintWarning], options: CheckOptions) -> None:
    """Raises DockerfileError for the first warning where the file says `error=true`."""
    found = list(warnings)
    if not options.error or not found:
        return
    rules = ", ".join(sorted({warning.rule for warning in found}))
    raise DockerfileError(
        f"lint violation found for rules: {rules}",
        span=found[0].span,
        hint="fix the warnings, or skip a rule with # check=skip=Rule",
    )


def _wanted(findings: Iterable[Finding], options: CheckOptions) -> tuple[LintWarning, ...]:
    kept = {
        LintWarning(finding.rule, finding.message, finding.span): None
        for finding in findings
        if _local(options, finding).runs(finding.rule)
    }
    return tuple(sorted(kept, key=lambda warning: warning.span.line))


def _local(options: CheckOptions, finding: Finding) -> CheckOptions:
    text = check_comments(finding.comments)
    if not text:
        return options
    try:
        return options.merged(CheckOptions.parse(text.split(" ", 1)[0]))
    except DockerfileError:
        return options
