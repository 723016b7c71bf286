"""The stages that a target needs, and what the names in them refer to.

Source: Dockerfile reference, "FROM", "COPY --from", "RUN --mount", "ONBUILD".
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

from msgspec import Struct, field

from shipline.dockerfile import instructions as ins
from shipline.dockerfile.reading import parse_trigger
from shipline.dockerfile.stages import Dockerfile, Stage
from shipline.dockerfile.words import process_word
from shipline.errors import DockerfileError, located

SCRATCH = "scratch"


class StageSource(Struct, frozen=True):
    """Files of another stage."""

    index: int


class ImageSource(Struct, frozen=True):
    """Files of an image, none for `scratch`."""

    name: str


class ContextSource(Struct, frozen=True):
    """Files of a named context, or of the build context if the name is empty."""

    name: str


Source = StageSource | ImageSource | ContextSource


class StagePlan(Struct, frozen=True):
    """The stages that a target needs, in file order, and the sources of all names.

    `bases` holds the source of each stage's FROM by its index; `triggers` the ONBUILD
    instructions of the base, which run before the stage's own; `sources` those of the names in
    `COPY --from` and `RUN --mount=from`; `replaced` the stages that a named context replaces.
    """

    target: Stage
    stages: tuple[Stage, ...]
    bases: dict[int, Source] = field(default_factory=dict)
    triggers: dict[int, tuple[ins.Instruction, ...]] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    replaced: frozenset[int] = frozenset()

    def instructions(self, stage: Stage) -> tuple[ins.Instruction, ...]:
        """The instructions to run in `stage`, triggers first; none if it is replaced."""
        if stage.index in self.replaced:
            return ()
        return (*self.triggers.get(stage.index, ()), *stage.instructions)

    def source(self, name: str) -> Source:
        """The source that `--from=` or a mount's `from=` names; empty is the context."""
        return self.sources.get(name.lower()) or ImageSource(name)


def origins(instruction: ins.Instruction) -> tuple[str, ...]:
    """The names after `--from=` or `from=` of an instruction.

    An ONBUILD has none: its trigger runs in a later stage.
    """
    if isinstance(instruction, ins.Copy) and instruction.origin:
        return (instruction.origin,)
    if isinstance(instruction, ins.Run):
        return tuple(flag.origin for flag in instruction.mount_flags if flag.origin)
    return ()


def stage_plan(
    dockerfile: Dockerfile,
    target: Stage,
    base_name: Callable[[Stage], str],
    *,
    contexts: Container[str] = (),
    image_triggers: Callable[[Stage], tuple[ins.Instruction, ...]] = lambda stage: (),
    all_stages: bool = False,
) -> StagePlan:
    """The stages needed for `target`, or all of the file with `all_stages`.

    `base_name` gives the name in a stage's FROM after expansion. `contexts` are the named
    contexts, which replace stages and images of the same name. `image_triggers` gives the ONBUILD
    instructions of a stage's base image; those of a base stage are found here.

    Raises DockerfileError for a stage that is used before it is defined, an index that no stage
    has, and a variable in `--from`.
    """
    walk = _Walk(dockerfile, base_name, contexts, image_triggers)
    for stage in dockerfile.stages if all_stages else (target,):
        walk.visit(stage)
    stages = tuple(stage for stage in dockerfile.stages if stage.index in walk.needed)
    replaced = frozenset(walk.replaced)
    return StagePlan(target, stages, walk.bases, walk.triggers, walk.sources, replaced)


class _Walk(Struct):
    """Collects the stages reachable from a target; edges lead to earlier stages only."""

    dockerfile: Dockerfile
    base_name: Callable[[Stage], str]
    contexts: Container[str]
    image_triggers: Callable[[Stage], tuple[ins.Instruction, ...]]
    needed: set[int] = field(default_factory=set)
    replaced: set[int] = field(default_factory=set)
    bases: dict[int, Source] = field(default_factory=dict)
    triggers: dict[int, tuple[ins.Instruction, ...]] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def visit(self, stage: Stage) -> None:
        """Collect a stage and all that it needs, however long the chain is."""
        pending = [iter((stage,))]
        while pending:
            if (needed := next(pending[-1], None)) is None:
                pending.pop()
            else:
                pending.append(self.enter(needed))

    def enter(self, stage: Stage) -> Iterator[Stage]:
        """Collect a stage; the stages that it needs itself."""
        if stage.index in self.needed:
            return
        self.needed.add(stage.index)
        if stage.name and stage.name in self.contexts:
            self.bases[stage.index] = ContextSource(stage.name)
            self.replaced.add(stage.index)
            return
        base = self.bases[stage.index] = self.base(stage)
        self.triggers[stage.index] = self.triggers_of(stage, base)
        for source in (base, *self.sources_of(stage)):
            if isinstance(source, StageSource):
                yield self.dockerfile.stages[source.index]

    def base(self, stage: Stage) -> Source:
        """A stage before this one, by its lower-case name; any other name is an image."""
        name = self.base_name(stage)
        earlier = (s for s in reversed(self.dockerfile.stages[: stage.index]) if s.name)
        found = next((s for s in earlier if s.name == name), None)
        if found is not None:
            return StageSource(found.index)
        return self.outside(name)

    def outside(self, name: str) -> Source:
        return ContextSource(name) if name in self.contexts else ImageSource(name)

    def triggers_of(self, stage: Stage, base: Source) -> tuple[ins.Instruction, ...]:
        if not isinstance(base, StageSource):
            return self.image_triggers(stage)
        own = self.dockerfile.stages[base.index].instructions
        found = (item.expression for item in own if isinstance(item, ins.OnBuild))
        escape = self.dockerfile.escape
        return tuple(parse_trigger(text, stage.span, escape=escape) for text in found)

    def sources_of(self, stage: Stage) -> Iterator[Source]:
        for instruction in (*self.triggers[stage.index], *stage.instructions):
            for name in origins(instruction):
                yield self.source(stage, instruction, name)

    def source(self, stage: Stage, instruction: ins.Instruction, name: str) -> Source:
        _check_plain(instruction, name)
        found = self.lookup(instruction, name)
        if found is None:
            source = self.outside(name)
        else:
            _check_defined_before(stage, found, instruction)
            source = StageSource(found.index)
        self.sources[name.lower()] = source
        return source

    def lookup(self, instruction: ins.Instruction, name: str) -> Stage | None:
        if not name.isdecimal():
            return self.dockerfile.find(name)
        if int(name) >= len(self.dockerfile.stages):
            raise DockerfileError(
                f"invalid stage index {name}",
                code="dockerfile-stage",
                span=instruction.span,
                hint=f"stages are numbered from 0 to {len(self.dockerfile.stages) - 1}",
            )
        return self.dockerfile.stages[int(name)]


def _check_plain(instruction: ins.Instruction, name: str) -> None:
    with located(instruction.span):
        plain = process_word(name, {}).text
    if plain != name:
        raise DockerfileError(
            "variable expansion is not supported for --from, define a new stage with FROM using "
            "ARG from global scope as a workaround",
            code="dockerfile-stage",
            span=instruction.span,
            hint=f"write FROM {name} AS name before this stage, then --from=name",
        )


def _check_defined_before(stage: Stage, found: Stage, instruction: ins.Instruction) -> None:
    if found.index < stage.index:
        return
    if found.index == stage.index:
        message = f"circular dependency detected on stage: {stage.label}"
    else:
        verb = "mount" if isinstance(instruction, ins.Run) else "copy"
        message = (
            f'cannot {verb} from stage "{found.label}", it needs to be defined before current '
            f'stage "{stage.label}"'
        )
    raise DockerfileError(
        message,
        span=instruction.span,
        hint=f"move stage {found.label} (line {found.span.line}) before the stage that uses it",
    )
