"""The build checks that need only the text of the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shipline.dockerfile import instructions as ins
from shipline.dockerfile.plan import SCRATCH
from shipline.dockerfile.ports import PortSpec
from shipline.dockerfile.stages import Dockerfile
from shipline.errors import Span

_RESERVED = ("context", SCRATCH)
_SECRET = re.compile(
    "(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)",
    re.IGNORECASE,
)
_HARMLESS = re.compile("(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule; `comments` stand above the instruction and may ask to skip it."""

    rule: str
    message: str
    span: Span
    comments: tuple[str, ...] = ()


def finding(rule: str, message: str, instruction: ins.Instruction) -> Finding:
    return Finding(rule, message, instruction.span, instruction.comments)


def all_instructions(dockerfile: Dockerfile) -> Iterator[ins.Instruction]:
    """Every instruction of the file in order, FROM included."""
    yield from dockerfile.global_args
    for stage in dockerfile.stages:
        yield stage.opening
        yield from stage.instructions


def no_empty_continuation(dockerfile: Dockerfile) -> Iterator[Finding]:
    for warning in dockerfile.warnings:
        yield Finding("NoEmptyContinuation", warning.message, warning.span)


def stage_name_casing(dockerfile: Dockerfile) -> Iterator[Finding]:
    for stage in dockerfile.stages:
        alias = stage.opening.alias
        if alias != alias.lower():
            message = f"Stage name '{alias}' should be lowercase"
            yield finding("StageNameCasing", message, stage.opening)


def from_as_casing(dockerfile: Dockerfile) -> Iterator[Finding]:
    for opening in (stage.opening for stage in dockerfile.stages):
        word, keyword = opening.as_keyword, opening.keyword
        matches = {keyword.lower(): word.lower(), keyword.upper(): word.upper()}
        if word and word != matches.get(keyword, word):
            message = f"'{word}' and '{keyword}' keywords' casing do not match"
            yield finding("FromAsCasing", message, opening)


def consistent_instruction_casing(dockerfile: Dockerfile) -> Iterator[Finding]:
    """The letter case that most instructions have is the right one; a draw is for upper case."""
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


def stage_names(dockerfile: Dockerfile) -> Iterator[Finding]:
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


def maintainer_deprecated(dockerfile: Dockerfile) -> Iterator[Finding]:
    message = "Maintainer instruction is deprecated in favor of using label"
    for instruction in all_instructions(dockerfile):
        if isinstance(instruction, ins.Maintainer):
            yield finding("MaintainerDeprecated", message, instruction)


def legacy_key_value_format(dockerfile: Dockerfile) -> Iterator[Finding]:
    for instruction in all_instructions(dockerfile):
        if isinstance(instruction, ins.Env | ins.Label):
            word = instruction.keyword
            message = (
                f'"{word} key=value" should be used instead of legacy "{word} key value" format'
            )
            for _ in filter(lambda pair: pair.legacy, instruction.pairs):
                yield finding("LegacyKeyValueFormat", message, instruction)


def secrets_used_in_arg_or_env(dockerfile: Dockerfile) -> Iterator[Finding]:
    """Names of stages' ARGs and ENVs that sound like a secret: the image would show its value."""
    for stage in dockerfile.stages:
        for instruction in stage.instructions:
            for name in _names(instruction):
                if _SECRET.search(name) and not _HARMLESS.search(name):
                    message = (
                        "Do not use ARG or ENV instructions for sensitive data "
                        f'({instruction.name} "{name}")'
                    )
                    yield finding("SecretsUsedInArgOrEnv", message, instruction)


def _names(instruction: ins.Instruction) -> tuple[str, ...]:
    if isinstance(instruction, ins.Env):
        return tuple(pair.key for pair in instruction.pairs)
    if isinstance(instruction, ins.Arg):
        return tuple(arg.name for arg in instruction.args)
    return ()


def multiple_instructions_disallowed(dockerfile: Dockerfile) -> Iterator[Finding]:
    """Of CMD, ENTRYPOINT and HEALTHCHECK only the last counts: the others are blamed."""
    for stage in dockerfile.stages:
        last: dict[str, ins.Instruction] = {}
        for instruction in stage.instructions:
            if not isinstance(instruction, ins.Cmd | ins.Entrypoint | ins.HealthCheck):
                continue
            if instruction.name in last:
                message = (
                    f"Multiple {instruction.name} instructions should not be used in the same "
                    "stage because only the last one will be used"
                )
                yield finding("MultipleInstructionsDisallowed", message, last[instruction.name])
            last[instruction.name] = instruction


def invalid_definition_description(dockerfile: Dockerfile) -> Iterator[Finding]:
    """A comment right above an ARG or a named FROM describes it: `# name what it is`."""
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


def port_findings(instruction: ins.Instruction, word: str) -> Iterator[Finding]:
    """ExposeProtoCasing, ExposeInvalidFormat of one expanded word of an EXPOSE."""
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


FILE_RULES: tuple[Callable[[Dockerfile], Iterator[Finding]], ...] = (
    no_empty_continuation,
    stage_name_casing,
    from_as_casing,
    consistent_instruction_casing,
    stage_names,
    maintainer_deprecated,
    legacy_key_value_format,
    secrets_used_in_arg_or_env,
    multiple_instructions_disallowed,
    invalid_definition_description,
)
