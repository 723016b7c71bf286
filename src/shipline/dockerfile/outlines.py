"""What the build of a target takes: its arguments, secrets and SSH agents.

Source: BuildKit, the subrequest `frontend.outline`, version 1.0.0. An argument is part of it where
a FROM uses it or a stage declares it; one that is inherited from before the first FROM is shown
where it is declared there. The target's own come before those of its base and of what it copies
from, and of one name the first counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from shipline.dockerfile import instructions as ins
from shipline.dockerfile.mounts import MountType
from shipline.dockerfile.plan import StagePlan, StageSource, origins
from shipline.dockerfile.scope import GlobalScope, PlatformArgs, ScopedInstruction
from shipline.dockerfile.stages import Dockerfile, Stage
from shipline.dockerfile.words import process_word
from shipline.errors import Span


class OutlineArgument(Struct, frozen=True):
    """A build argument with the value in effect, empty without one."""

    name: str
    span: Span
    value: str = ""
    description: str = ""


class OutlineMount(Struct, frozen=True):
    """A secret or an SSH agent that steps mount."""

    name: str
    span: Span
    required: bool


class Outline(Struct, frozen=True):
    """What `target` takes, each in the order of lines."""

    dockerfile: Dockerfile
    target: Stage
    args: tuple[OutlineArgument, ...]
    secrets: tuple[OutlineMount, ...]
    agents: tuple[OutlineMount, ...]


def description(instruction: ins.Instruction, name: str) -> str:
    """The rest of the first comment line above `instruction` that begins with `name`."""
    lines = (line for line in instruction.comments if name and line.startswith(f"{name} "))
    return next(lines, "").removeprefix(f"{name} ")


def outline(
    dockerfile: Dockerfile,
    scope: GlobalScope,
    plan: StagePlan,
    steps: Mapping[int, Sequence[ScopedInstruction]],
) -> Outline:
    """The outline of the plan's target; `steps` are the expanded instructions of each stage."""
    declared = {one.name: one for one in _global_arguments(dockerfile, scope)}
    needs = _needs(dockerfile, scope)
    args: dict[str, OutlineArgument] = {}
    mounts: dict[tuple[MountType, str], OutlineMount] = {}
    for stage in _by_nearness(plan):
        expanded = steps[stage.index]
        written = plan.instructions(stage)
        own = {one.name: one for one in _own_arguments(written, expanded, scope)}
        used = {*scope.base_of(stage).used, *own, *_inherited(written)}
        used = _closure(used, {name: more for name, more in needs.items() if name not in own})
        for name, one in (declared | own).items():
            if name in used:
                args.setdefault(name, one)
        for step in expanded:
            for mount in step.mounts:
                found_mount = OutlineMount(mount.id, step.instruction.span, mount.required)
                mounts.setdefault((mount.type, mount.id), found_mount)
    return Outline(
        dockerfile,
        plan.target,
        tuple(sorted(args.values(), key=lambda one: one.span.line)),
        _of_type(MountType.SECRET, mounts),
        _of_type(MountType.SSH, mounts),
    )


def _of_type(
    wanted: MountType, mounts: Mapping[tuple[MountType, str], OutlineMount]
) -> tuple[OutlineMount, ...]:
    found = (mount for (kind, _), mount in mounts.items() if kind is wanted)
    return tuple(sorted(found, key=lambda one: one.span.line))


def _global_arguments(dockerfile: Dockerfile, scope: GlobalScope) -> Iterable[OutlineArgument]:
    for line in dockerfile.global_args:
        for arg in line.args:
            valued = arg.default is not None or arg.name in scope.build_args
            value = scope.variables[arg.name] if valued else ""
            yield OutlineArgument(arg.name, line.span, value, description(line, arg.name))


def _needs(dockerfile: Dockerfile, scope: GlobalScope) -> dict[str, frozenset[str]]:
    """The variables in the default of each global argument, if the default counts: those that have
    a value there. A default that holds the argument itself needs what its former one needs.
    """
    found: dict[str, frozenset[str]] = {}
    known = {name: scope.variables[name] for name in PlatformArgs("", "").variables()}
    for line in dockerfile.global_args:
        for arg in line.args:
            given = scope.build_args.get(arg.name)
            text = "" if given is not None else arg.default or ""
            expansion = process_word(text, known, escape=scope.escape)
            used = expansion.used
            former = found.get(arg.name, frozenset()) if arg.name in used else frozenset()
            found[arg.name] = (used - {arg.name}) | former
            if given is not None or arg.default is not None:
                known[arg.name] = expansion.text if given is None else given
    return found


def _own_arguments(
    written: Iterable[ins.Instruction], expanded: Iterable[ScopedInstruction], scope: GlobalScope
) -> Iterable[OutlineArgument]:
    """The arguments of a stage that have a value of its own, or none at all."""
    for line, step in zip(written, expanded, strict=True):
        if isinstance(line, ins.Arg) and isinstance(step.instruction, ins.Arg):
            for arg, effective in zip(line.args, step.instruction.args, strict=True):
                own = arg.default is not None or arg.name in scope.build_args
                if own or arg.name not in scope.variables:
                    text = description(line, arg.name)
                    yield OutlineArgument(arg.name, line.span, effective.default or "", text)


def _inherited(written: Iterable[ins.Instruction]) -> Iterable[str]:
    return (arg.name for line in written if isinstance(line, ins.Arg) for arg in line.args)


def _closure(names: set[str], needs: Mapping[str, frozenset[str]]) -> set[str]:
    """`names` with all that they need."""
    found, waiting = set(names), list(names)
    while waiting:
        more = needs.get(waiting.pop(), frozenset()) - found
        found |= more
        waiting += more
    return found


def _by_nearness(plan: StagePlan) -> list[Stage]:
    """The target, its base with what that needs, then the stages that it copies from."""
    stages = {stage.index: stage for stage in plan.stages}
    found: dict[int, Stage] = {}
    waiting = [plan.target.index]
    while waiting:
        index = waiting.pop()
        if index in found:
            continue
        stage = found[index] = stages[index]
        names = (name for one in plan.instructions(stage) for name in origins(one))
        sources = [plan.bases[index], *map(plan.source, names)]
        waiting += [one.index for one in reversed(sources) if isinstance(one, StageSource)]
    return list(found.values())
