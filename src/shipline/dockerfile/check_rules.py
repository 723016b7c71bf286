"""The rules of the build checks: on the text of the file, and on variables through its stages."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct, field

from shipline.dockerfile import instructions as ins
from shipline.dockerfile.ignore import IgnoreRules
from shipline.dockerfile.paths import is_absolute
from shipline.dockerfile.plan import SCRATCH
from shipline.dockerfile.scope import GlobalScope, PlatformArgs, VariableScope, apply, open_scope
from shipline.dockerfile.stages import Dockerfile, Stage
from shipline.dockerfile.text import nearest, quote
from shipline.dockerfile.values import PortSpec
from shipline.dockerfile.words import process_word
from shipline.errors import DockerfileError, Span, located
from shipline.values import replace

_RESERVED = ("context", SCRATCH)
_SECRET = re.compile(
    "(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile("(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)


class RuleFinding(Struct, frozen=True):
    """A violated rule; `comments` are above the instruction and may skip the rule."""

    rule: str
    message: str
    span: Span
    comments: tuple[str, ...] = ()


def finding(rule: str, message: str, instruction: ins.Instruction) -> RuleFinding:
    return RuleFinding(rule, message, instruction.span, instruction.comments)


def all_instructions(dockerfile: Dockerfile) -> Iterator[ins.Instruction]:
    """Every instruction of the file in order, FROM included."""
    yield from dockerfile.global_args
    for stage in dockerfile.stages:
        yield stage.opening
        yield from stage.instructions


def no_empty_continuation(dockerfile: Dockerfile) -> Iterator[RuleFinding]:
    for warning in dockerfile.warnings:
        yield RuleFinding("NoEmptyContinuation", warning.message, warning.span)


def stage_name_casing(dockerfile: Dockerfile) -> Iterator[RuleFinding]:
    for stage in dockerfile.stages:
        alias = stage.opening.alias
        if alias != alias.lower():
            message = f"Stage name '{alias}' should be lowercase"
            yield finding("StageNameCasing", message, stage.opening)


def from_as_casing(dockerfile: Dockerfile) -> Iterator[RuleFinding]:
    for opening in (stage.opening for stage in dockerfile.stages):
        word, keyword = opening.as_keyword, opening.keyword
        matches = {keyword.lower(): word.lower(), keyword.upper(): word.upper()}
        if word and word != matches.get(keyword, word):
            message = f"'{word}' and '{keyword}' keywords' casing do not match"
            yield finding("FromAsCasing", message, opening)


def consistent_instruction_casing(dockerfile: Dockerfile) -> Iterator[RuleFinding]:
    """Expects the letter case of most instructions; a tie means upper case."""
    instructions = [i for i in all_instructions(dockerfile) if i not in dockerfile.global_args]
    lower = sum(i.keyword == i.keyword.lower() for i in instructions)
    upper = sum(i.keyword == i.keyword.upper() for i in instructions)
    casing, change = ("lowercase", str.lower) if lower > upper else ("uppercase", str.upper)
    for instruction in instructions:
        if instruction.keyword != change(instruction.keyword):
            message = (
                f"Command '{instruction.keyword}' should match the case of the command majority "
                f"({casing})"
            )
            yield finding("ConsistentInstructionCasing", message, instruction)


def stage_names(dockerfile: Dockerfile) -> Iterator[RuleFinding]:
    """DuplicateStageName, ReservedStageName"""
    seen: set[str] = set()
    for stage in dockerfile.stages:
        if stage.name in _RESERVED:
            message = f'Stage name should not use the same name as reserved stage "{stage.name}"'
            yield finding("ReservedStageName", message, stage.opening)
        if stage.name and stage.name in seen:
            message = f'Duplicate stage name "{stage.name}", stage names should be unique'
            yield finding("DuplicateStageName", message, stage.opening)
        seen.add(stage.name)


def maintainer_deprecated(dockerfile: Dockerfile) -> Iterator[RuleFinding]:
    message = "Maintainer instruction is deprecated in favor of using label"
    for instruction in all_instructions(dockerfile):
        if isinstance(instruction, ins.Maintainer):
            yield finding("MaintainerDeprecated", message, instruction)


def _legacy_pairs(instruction: ins.Instruction) -> Iterator[RuleFinding]:
    """LegacyKeyValueFormat"""
    if isinstance(instruction, ins.Env | ins.Label):
        word = instruction.keyword
        message = f'"{word} key=value" should be used instead of legacy "{word} key value" format'
        for _ in filter(lambda pair: pair.legacy, instruction.pairs):
            yield finding("LegacyKeyValueFormat", message, instruction)


def _secrets(instruction: ins.Instruction) -> Iterator[RuleFinding]:
    """SecretsUsedInArgOrEnv: names that look like secrets, which the image would expose."""
    for name in _names(instruction):
        if _SECRET.search(name) and not _NOT_SECRET.search(name):
            message = (
                "Do not use ARG or ENV instructions for sensitive data "
                f"({instruction.name} {quote(name)})"
            )
            yield finding("SecretsUsedInArgOrEnv", message, instruction)


def _names(instruction: ins.Instruction) -> tuple[str, ...]:
    if isinstance(instruction, ins.Env):
        return tuple(pair.key for pair in instruction.pairs)
    if isinstance(instruction, ins.Arg):
        return tuple(arg.name for arg in instruction.args)
    return ()


def _used_before(
    instruction: ins.Instruction, last: dict[str, ins.Instruction]
) -> Iterator[RuleFinding]:
    """MultipleInstructionsDisallowed: only the last CMD, ENTRYPOINT and HEALTHCHECK of a stage
    counts; reports the one before, which is in `last` by its name.
    """
    if not isinstance(instruction, ins.Cmd | ins.Entrypoint | ins.HealthCheck):
        return
    if instruction.name in last:
        message = (
            f"Multiple {instruction.keyword} instructions should not be used in the same "
            "stage because only the last one will be used"
        )
        yield finding("MultipleInstructionsDisallowed", message, last[instruction.name])
    last[instruction.name] = instruction


def invalid_definition_description(dockerfile: Dockerfile) -> Iterator[RuleFinding]:
    """A comment directly above an ARG or a named FROM must describe it: `# name description`."""
    for instruction in all_instructions(dockerfile):
        if isinstance(instruction, ins.From) and instruction.alias:
            names: tuple[str, ...] = (instruction.alias.lower(),)
        elif isinstance(instruction, ins.Arg):
            names = _names(instruction)
        else:
            continue
        if instruction.comments and instruction.comments[-1].split(" ")[0] not in names:
            example = names[0] if len(names) == 1 else "<arg_key>"
            message = (
                f"Comment for {instruction.name} should follow the format: "
                f"`# {example} <description>`"
            )
            yield finding("InvalidDefinitionDescription", message, instruction)


def port_findings(instruction: ins.Instruction, word: str) -> Iterator[RuleFinding]:
    """ExposeProtoCasing, ExposeInvalidFormat, for one expanded word of an EXPOSE."""
    spec = PortSpec.parse(word)
    if spec.protocol != spec.protocol.lower():
        message = f"Defined protocol '{word}' in EXPOSE instruction should be lowercase"
        yield finding("ExposeProtoCasing", message, instruction)
    if spec.address or spec.host:
        message = (
            "EXPOSE instruction should not define an IP address or host-port mapping, "
            f"found '{word}'"
        )
        yield finding("ExposeInvalidFormat", message, instruction)


FILE_RULES: tuple[Callable[[Dockerfile], Iterator[RuleFinding]], ...] = (
    no_empty_continuation,
    stage_name_casing,
    from_as_casing,
    consistent_instruction_casing,
    stage_names,
    maintainer_deprecated,
    invalid_definition_description,
)


_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_IMAGE = (
    rf"(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*"
    r"(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][\w+.-]*:[0-9a-fA-F]{32,})?"
)
_SYSTEMS = ("linux", "windows", "darwin", "freebsd", "wasi")
_EVERYTHING = ("*", "**", "**/*")


class KnownImage(Struct, frozen=True):
    """A base image: its variables (`NAME=value`), its platform and the one that was wanted, both
    as `os/arch[/variant]`.
    """

    variables: tuple[str, ...]
    platform: str
    wanted: str


KnownImages = Callable[[str, str], KnownImage | None]
"""The image of a name for the platform of FROM, None if it is unknown."""


def base_findings(
    dockerfile: Dockerfile, scope: GlobalScope, platforms: PlatformArgs
) -> Iterator[RuleFinding]:
    """UndefinedArgInFrom, InvalidDefaultArgInFrom, and those of `FROM --platform`."""
    declared = {arg.name for line in dockerfile.global_args for arg in line.args}
    defaults = _defaults(dockerfile, platforms)
    for stage in dockerfile.stages:
        if defaults and not re.fullmatch(_IMAGE, _default_base(stage, defaults), re.ASCII):
            message = (
                f"Default value for ARG {stage.base} results in empty or invalid base image name"
            )
            yield finding("InvalidDefaultArgInFrom", message, stage.opening)
        for name in sorted(scope.undefined_in(stage) - declared):
            message = f"FROM argument '{name}' is not declared{_suggestion(name, scope.variables)}"
            yield finding("UndefinedArgInFrom", message, stage.opening)
        scope.base_of(stage)
        if stage.platform:
            yield from _platform_findings(stage, scope)


def _defaults(dockerfile: Dockerfile, platforms: PlatformArgs) -> GlobalScope | None:
    """The global scope without build arguments; None if it requires some."""
    try:
        return open_scope(dockerfile, platforms)
    except DockerfileError:
        return None


def _default_base(stage: Stage, defaults: GlobalScope) -> str:
    try:
        return defaults.base_of(replace(stage, opening=replace(stage.opening, platform=""))).name
    except DockerfileError:
        return ""


def _platform_findings(stage: Stage, scope: GlobalScope) -> Iterator[RuleFinding]:
    with located(stage.span):
        expansion = process_word(stage.platform, scope.variables, escape=scope.escape)
    target = scope.variables["TARGETPLATFORM"]
    if expansion.used == {"TARGETPLATFORM"} and expansion.text == target:
        message = (
            f"Setting platform to predefined {stage.platform} in FROM is redundant as this is the "
            "default behavior"
        )
        yield finding("RedundantTargetPlatform", message, stage.opening)
    if not expansion.used | expansion.undefined and not _named_after(stage, expansion.text):
        message = f'FROM --platform flag should not use constant value "{expansion.text}"'
        yield finding("FromPlatformFlagConstDisallowed", message, stage.opening)


def _named_after(stage: Stage, platform: str) -> bool:
    """Whether the stage is named after this platform."""
    parts = platform.lower().split("/")
    if len(parts) == 1:
        parts = [*parts, "amd64"] if parts[0] in _SYSTEMS else ["linux", *parts]
    return any(part in stage.name for part in parts[:2])


def _suggestion(name: str, variables: Iterable[str], mark: str = "") -> str:
    found = nearest(name, variables)
    return f" (did you mean {mark}{found}?)" if found else ""


def _image_findings(stage: Stage, image: KnownImage) -> Iterator[RuleFinding]:
    """InvalidBaseImagePlatform."""
    if image.platform.split("/")[:2] != image.wanted.split("/")[:2]:
        message = (
            f'Base image {stage.base} was pulled with platform "{image.platform}", expected '
            f'"{image.wanted}" for current build'
        )
        yield finding("InvalidBaseImagePlatform", message, stage.opening)


class _CheckedState(Struct, frozen=True):
    """The state after an instruction, which later stages inherit; `known` is false if the variables
    of the base image are unknown."""

    scope: VariableScope
    known: bool
    shell: bool = False
    workdir: bool = False


class StageWalk(Struct):
    """Walks stages in order, each from the final state of its base.

    Undefined variables are not reported in stages whose base image is unknown.
    """

    dockerfile: Dockerfile
    scope: GlobalScope
    ignore: IgnoreRules
    images: KnownImages
    target: str
    ends: dict[int, _CheckedState] = field(default_factory=dict)

    def findings(
        self, stage: Stage, instructions: Iterable[ins.Instruction]
    ) -> Iterator[RuleFinding]:
        """The findings of one stage and its `instructions`, triggers of its base included; the
        stages before it must have been walked.
        """
        state, found = self._start(stage)
        yield from found
        last: dict[str, ins.Instruction] = {}
        for instruction in instructions:
            yield from _used_before(instruction, last)
            yield from _legacy_pairs(instruction)
            yield from self._workdir(instruction, state, stage)
            yield from _json_args(instruction, state)
            yield from self._ignored_sources(instruction)
            state, found = self._step(instruction, state)
            yield from found
        self.ends[stage.index] = state

    def _start(self, stage: Stage) -> tuple[_CheckedState, list[RuleFinding]]:
        base = self.scope.base_of(stage)
        earlier = reversed(self.dockerfile.stages[: stage.index])
        parent = next((s for s in earlier if s.name == base.name), None)
        if parent is not None and parent.index in self.ends:
            return self.ends[parent.index], []
        if base.name == SCRATCH:
            return _CheckedState(VariableScope.of_image(()), known=True), []
        image = self.images(base.name, base.platform or self.target)
        if image is None:
            return _CheckedState(VariableScope.of_image(()), known=False), []
        state = _CheckedState(VariableScope.of_image(image.variables), known=True)
        return state, [*_image_findings(stage, image)]

    def _step(
        self, instruction: ins.Instruction, state: _CheckedState
    ) -> tuple[_CheckedState, list[RuleFinding]]:
        """The state after `instruction`, and findings about variables and ports."""
        found: list[RuleFinding] = []
        step = apply(instruction, state.scope, self.scope)
        found += _secrets(step.instruction)
        if state.known and not isinstance(instruction, ins.Expose):  # as in BuildKit
            for name in sorted(step.undefined):
                message = (
                    f"Usage of undefined variable '${name}'"
                    f"{_suggestion(name, state.scope.variables, '$')}"
                )
                found.append(finding("UndefinedVar", message, instruction))
        if isinstance(instruction, ins.Expose):
            for port in instruction.ports:
                words = process_word(port, state.scope.variables, escape=self.scope.escape).words
                found += (item for word in words for item in port_findings(instruction, word))
        return replace(
            state,
            scope=step.scope,
            shell=state.shell or isinstance(instruction, ins.Shell),
            workdir=state.workdir or isinstance(instruction, ins.Workdir),
        ), found

    def _workdir(
        self, instruction: ins.Instruction, state: _CheckedState, stage: Stage
    ) -> Iterator[RuleFinding]:
        if not isinstance(instruction, ins.Workdir) or state.workdir:
            return
        step = apply(instruction, state.scope, self.scope).instruction
        platform = self.scope.base_of(stage).platform or self.target
        if isinstance(step, ins.Workdir) and not is_absolute(step.path, platform):
            message = (
                f"Relative workdir {quote(step.path)} can have unexpected results if the base "
                "image changes"
            )
            yield finding("WorkdirRelativePath", message, instruction)

    def _ignored_sources(self, instruction: ins.Instruction) -> Iterator[RuleFinding]:
        """CopyIgnoredFile; not where an exception may keep something, which needs the files."""
        if not isinstance(instruction, ins.Transfer):
            return
        if isinstance(instruction, ins.Copy) and instruction.origin:
            return
        for source in instruction.sources:
            path = posixpath.normpath(source).lstrip("/") or "."
            if "://" not in source and self._ignored(path):
                message = (
                    f"Attempting to {instruction.name.capitalize()} file "
                    f'"{posixpath.normpath(source)}" that is excluded by .dockerignore'
                )
                yield finding("CopyIgnoredFile", message, instruction)

    def _ignored(self, path: str) -> bool:
        kept = [pattern.text for pattern in self.ignore.patterns if pattern.negated]
        if any(_may_keep(text, path) for text in kept):
            return False
        if path == ".":
            return any(pattern.text in _EVERYTHING for pattern in self.ignore.patterns)
        return self.ignore.ignores(path)


def _may_keep(exception: str, source: str) -> bool:
    """Whether an exception may be for what is at `source` or below it; a wildcard in either stands
    for everything below the directories before it.
    """
    kept, some = _before_wildcards(exception)
    copied, _ = _before_wildcards("" if source == "." else source)
    return _is_within(kept, copied) or (some and _is_within(copied, kept))


def _before_wildcards(pattern: str) -> tuple[str, bool]:
    """The directories before the first wildcard, without escapes; and whether there is one."""
    parts = pattern.split("/")
    first = next((n for n, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return re.sub(r"\\(.)", r"\1", "/".join(parts[:first])), first < len(parts)


def _is_within(path: str, directory: str) -> bool:
    return not directory or path == directory or path.startswith(f"{directory}/")


def _json_args(instruction: ins.Instruction, state: _CheckedState) -> Iterator[RuleFinding]:
    if not isinstance(instruction, ins.Cmd | ins.Entrypoint) or state.shell:
        return
    if instruction.command.shell_form:
        message = (
            f"JSON arguments recommended for {instruction.keyword} to prevent unintended behavior "
            "related to OS signals"
        )
        yield finding("JSONArgsRecommended", message, instruction)
