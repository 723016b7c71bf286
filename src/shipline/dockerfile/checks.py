"""The build checks: their options, and running them on a Dockerfile.

Source: Docker manual, "Build checks", for the rules, their messages, and the options
`# check=skip=A,B;error=true;experimental=C`. `lint` drops findings that the file skips.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from shipline.dockerfile.check_rules import (
    FILE_RULES,
    KnownImages,
    RuleFinding,
    StageWalk,
    base_findings,
)
from shipline.dockerfile.ignore import IgnoreRules
from shipline.dockerfile.parser import check_comments
from shipline.dockerfile.plan import stage_plan
from shipline.dockerfile.scope import PlatformArgs, open_scope
from shipline.dockerfile.stages import Dockerfile, Stage
from shipline.errors import DockerfileError, Span, located
from shipline.units import parse_boolean

EXPERIMENTAL = frozenset({"CopyIgnoredFile", "InvalidDefinitionDescription"})
_ALL = "all"
_WORD = re.compile("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
DESCRIPTIONS = {
    "StageNameCasing": "Stage names should be lowercase",
    "FromAsCasing": "The 'as' keyword should match the case of the 'from' keyword",
    "NoEmptyContinuation": "Empty continuation lines will become errors in a future release",
    "ConsistentInstructionCasing": "All commands within the Dockerfile should use the same casing "
    "(either upper or lower)",
    "DuplicateStageName": "Stage names should be unique",
    "ReservedStageName": "Reserved words should not be used as stage names",
    "JSONArgsRecommended": "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended "
    "behavior related to OS signals",
    "MaintainerDeprecated": "The MAINTAINER instruction is deprecated, use a label instead to "
    "define an image author",
    "UndefinedArgInFrom": "FROM command must use declared ARGs",
    "WorkdirRelativePath": "Relative workdir without an absolute workdir declared within the build "
    "can have unexpected results if the base image changes",
    "UndefinedVar": "Variables should be defined before their use",
    "MultipleInstructionsDisallowed": "Multiple instructions of the same type should not be used "
    "in the same stage",
    "LegacyKeyValueFormat": "Legacy key/value format with whitespace separator should not be used",
    "InvalidBaseImagePlatform": "Base image platform does not match expected target platform",
    "RedundantTargetPlatform": "Setting platform to predefined $TARGETPLATFORM in FROM is "
    "redundant as this is the default behavior",
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "InvalidDefaultArgInFrom": "Default value for global ARG results in an empty or invalid base "
    "image name",
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "CopyIgnoredFile": "Attempting to Copy file that is excluded by .dockerignore",
    "InvalidDefinitionDescription": "Comment for build stage or argument should follow the format: "
    "`# <arg/stage name> <description>`. If this is not intended to be a description comment, add "
    "an empty line or comment between the instruction and the comment.",
    "ExposeProtoCasing": "Protocol in EXPOSE instruction should be lowercase",
    "ExposeInvalidFormat": "IP address and host-port mapping should not be used in EXPOSE "
    "instruction. This will become an error in a future release",
}
"""The description of each rule, as in BuildKit."""


class CheckOptions(Struct, frozen=True):
    """Rules to skip, and experimental rules to run; `all` means every rule.

    What is experimental runs where it is named, and cannot be skipped. `error` makes a warning fail
    the build.
    """

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    @classmethod
    def parse(cls, text: str) -> CheckOptions:
        """Raises DockerfileError for an unknown option."""
        lists: dict[str, frozenset[str]] = {}
        every: dict[str, frozenset[str]] = {}
        error = False
        for part in filter(None, (part.strip() for part in text.split(";"))):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or key not in ("skip", "experimental", "error"):
                raise DockerfileError(
                    f'invalid check option "{key}"',
                    code="dockerfile-directive",
                    hint="write # check=skip=Rule,Rule;error=true;experimental=Rule",
                )
            if key == "error":
                error = _boolean(part)
            elif value == _ALL:
                every[key] = frozenset({_ALL})
            else:
                lists[key] = frozenset(name.strip() for name in value.split(","))
        none: frozenset[str] = frozenset()
        skip, experimental = (
            lists.get(key, none) | every.get(key, none) for key in ("skip", "experimental")
        )
        return cls(skip, experimental, error)

    def runs(self, rule: str) -> bool:
        if rule in EXPERIMENTAL:
            return bool(self.experimental & {_ALL, rule})
        return not self.skip & {_ALL, rule}

    def merged(self, other: CheckOptions) -> CheckOptions:
        """These options extended by those of a comment, for one instruction."""
        return CheckOptions(
            self.skip | other.skip, self.experimental | other.experimental, self.error
        )


def rule_url(rule: str) -> str:
    """The page of a rule in the Docker manual."""
    name = _WORD.sub("-", rule).lower()
    return f"https://docs.docker.com/go/dockerfile/rule/{name}/"


def _boolean(option: str) -> bool:
    text = option.partition("=")[2].strip()
    if (value := parse_boolean(text)) is None:
        raise DockerfileError(
            f'failed to parse check option "{option}": strconv.ParseBool: parsing "{text}": '
            "invalid syntax",
            code="dockerfile-directive",
            hint="write error=true",
        )
    return value


class LintWarning(Struct, frozen=True):
    """A violated rule, with message and position."""

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
    images: KnownImages = lambda name, platform: None,
    on_failure: Callable[[DockerfileError], None] | None = None,
) -> tuple[LintWarning, ...]:
    """The warnings of a file in the order of its lines, each once.

    With `target`, only the stages that it needs are checked, besides the rules for the whole file;
    else all. `ignore` are the ignore rules of the build context, `images` has the base images that
    are known.

    Raises DockerfileError if the file cannot be built at all; with `on_failure` the error goes
    there, and the warnings are those of what comes before.
    """
    options = check_options(dockerfile)
    findings: list[RuleFinding] = []
    try:
        for finding in _findings(
            dockerfile, platforms, target, build_args, ignore or IgnoreRules(), images
        ):
            findings.append(finding)
    except DockerfileError as error:
        if on_failure is None:
            raise
        on_failure(error)
    return _enabled(findings, options)


def _findings(
    dockerfile: Dockerfile,
    platforms: PlatformArgs,
    target: Stage | None,
    build_args: Mapping[str, str] | None,
    ignore: IgnoreRules,
    images: KnownImages,
) -> Iterator[RuleFinding]:
    stage = target or dockerfile.stages[-1]
    for rule in FILE_RULES:
        yield from rule(dockerfile)
    scope = open_scope(dockerfile, platforms, build_args=build_args, target=stage.name)
    yield from base_findings(dockerfile, scope, platforms)
    plan = stage_plan(dockerfile, stage, lambda s: scope.base_of(s).name)
    walk = StageWalk(dockerfile, scope, ignore, images, platforms.target)
    for item in plan.stages if target else dockerfile.stages:  # triggers of needed stages alone
        yield from walk.findings(item, plan.instructions(item))


def check_options(dockerfile: Dockerfile) -> CheckOptions:
    """The options of the file's `check` directive, up to its first space.

    Raises DockerfileError for an invalid one.
    """
    directives = dockerfile.directives
    span = dict(directives.spans).get("check", dockerfile.stages[0].span)
    with located(span, prefix="failed to parse check options: "):
        return CheckOptions.parse(directives.check.split(" ", 1)[0])


def enforce(warnings: Iterable[LintWarning], options: CheckOptions) -> None:
    """Raises DockerfileError for the first warning if the file has `error=true`."""
    found = list(warnings)
    if not options.error or not found:
        return
    rules = ", ".join(sorted({warning.rule for warning in found}))
    raise DockerfileError(
        f"lint violation found for rules: {rules}",
        code="dockerfile-check",
        span=found[0].span,
        hint="fix the warnings, or skip a rule with # check=skip=Rule",
    )


def _enabled(findings: Iterable[RuleFinding], options: CheckOptions) -> tuple[LintWarning, ...]:
    warnings = {
        LintWarning(finding.rule, finding.message, finding.span): None
        for finding in findings
        if _options_at(options, finding).runs(finding.rule)
    }
    return tuple(sorted(warnings, key=lambda warning: warning.span.line))


def _options_at(options: CheckOptions, finding: RuleFinding) -> CheckOptions:
    text = check_comments(finding.comments)
    if not text:
        return options
    try:
        return options.merged(CheckOptions.parse(text.split(" ", 1)[0]))
    except DockerfileError:
        return options
