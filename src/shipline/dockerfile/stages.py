"""The stages of a Dockerfile.

Source: Dockerfile reference, "FROM", "Format".
"""

from __future__ import annotations

from msgspec import Struct

from shipline.dockerfile import instructions as ins
from shipline.dockerfile.parser import Directives, ParseWarning, parse
from shipline.dockerfile.reading import check_syntax, read_instruction
from shipline.dockerfile.text import did_you_mean
from shipline.errors import DockerfileError, Span


class Stage(Struct, frozen=True):
    """A FROM with the instructions up to the next one.

    `name` is in lower case, empty without one; `base` and `platform` are as written.
    """

    index: int
    opening: ins.From
    instructions: tuple[ins.Instruction, ...] = ()

    @property
    def name(self) -> str:
        return self.opening.alias.lower()

    @property
    def base(self) -> str:
        return self.opening.image

    @property
    def platform(self) -> str:
        return self.opening.platform

    @property
    def span(self) -> Span:
        return self.opening.span

    @property
    def label(self) -> str:
        """The name, or `stage-<index>`, for progress and messages."""
        return self.name or f"stage-{self.index}"


class Dockerfile(Struct, frozen=True):
    """A whole file, with at least one stage."""

    file: str
    directives: Directives
    global_args: tuple[ins.Arg, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[ParseWarning, ...] = ()

    @property
    def escape(self) -> str:
        return self.directives.escape

    def find(self, name: str) -> Stage | None:
        """The stage with this name, ignoring letter case; the last one if names repeat."""
        named = (stage for stage in reversed(self.stages) if stage.name == name.lower() != "")
        return next(named, None)


def parse_dockerfile(
    content: bytes | str, *, file: str = "Dockerfile", before: int | None = None
) -> Dockerfile:
    """The stages of `content`; `file` names it in messages. With `before` only instructions above
    that line are read.

    Raises DockerfileError with the position for every error that does not depend on variables.
    """
    parsed = parse(content, file=file)
    escape = parsed.directives.escape
    for node in parsed.nodes:
        check_syntax(node, escape=escape)
    nodes = [one for one in parsed.nodes if before is None or one.span.line < before]
    instructions = [read_instruction(node, escape=escape) for node in nodes]
    bodies: list[tuple[ins.From, list[ins.Instruction]]] = []
    global_args: list[ins.Arg] = []
    for instruction in instructions:
        if isinstance(instruction, ins.From):
            bodies.append((instruction, []))
        elif bodies:
            bodies[-1][1].append(instruction)
        elif isinstance(instruction, ins.Arg):
            global_args.append(instruction)
        else:
            raise DockerfileError(
                "no build stage in current context",
                code="dockerfile-empty",
                span=instruction.span,
                hint=f"only ARG may precede the first FROM; move {instruction.name} below it",
            )
    if not bodies:
        raise DockerfileError(
            "dockerfile contains no stages to build",
            code="dockerfile-empty",
            span=parsed.nodes[-1].span,
            hint="add a FROM instruction",
        )
    stages = tuple(Stage(index, base, tuple(body)) for index, (base, body) in enumerate(bodies))
    return Dockerfile(file, parsed.directives, tuple(global_args), stages, parsed.warnings)


def resolve_target(dockerfile: Dockerfile, target: str | None = None) -> Stage:
    """The stage named `target` (letter case ignored); the last one for None.

    Raises DockerfileError that lists the stages. As in BuildKit a number is not a name.
    """
    if not target:
        return dockerfile.stages[-1]
    found = dockerfile.find(target)
    if found is None:
        names = [stage.name for stage in dockerfile.stages if stage.name]
        raise DockerfileError(
            f'target stage "{target}" could not be found{did_you_mean(target, names)}',
            code="target-stage",
            span=Span(dockerfile.file, 1, 1),
            hint=f"the stages are: {', '.join(names)}" if names else "name one with FROM ... AS",
        )
    return found
