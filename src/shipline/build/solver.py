"""The solver: ready vertices run at once, equal ones only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shipline.build import copying, running
from shipline.build.cache import Made
from shipline.build.copying import Use
from shipline.build.graph import (
    ContextOp,
    CopyOp,
    ImageOp,
    Label,
    MakeDirectoryOp,
    RunOp,
    ScratchOp,
    Vertex,
    walk,
)
from shipline.build.plan import BaseImage
from shipline.build.snapshots import Snapshot
from shipline.build.workshop import Follower, Result, Workshop
from shipline.errors import DockerfileError, UsageError
from shipline.events import Step
from shipline.tasks import Once, TaskGroup


@dataclass(frozen=True, slots=True)
class Solved:
    """What a vertex came to; `made` is the step's own part, None where it has none."""

    result: Result
    made: Made | None = None

    @property
    def snapshot(self) -> Snapshot:
        assert isinstance(self.result, Snapshot)
        return self.result


class Solver:
    """Runs vertices of one build. `publish` are those whose layers end in an image."""

    def __init__(
        self,
        shop: Workshop,
        images: dict[ImageOp, BaseImage],
        step: Step,
        *,
        publish: frozenset[Vertex],
        mountable: frozenset[Vertex],
        follower: Follower | None,
    ) -> None:
        self._shop = shop
        self._images = images
        self._step = step
        self._publish = publish
        self._mountable = mountable
        self._follower = follower
        self._once: Once[Solved] = Once()

    def start(self, group: TaskGroup, *roots: Vertex) -> None:
        """Start everything that `roots` need; what is ready runs, the rest waits for it."""
        for vertex in walk(*roots):
            group.start(self.solve, vertex)

    def solve(self, vertex: Vertex) -> Solved:
        """The result of `vertex`; equal vertices share one. Raises what its work raises."""
        return self._once.get(vertex, lambda: self._work(vertex))

    def _work(self, vertex: Vertex) -> Solved:
        return self._run(vertex, [self.solve(one).result for one in vertex.inputs])

    def _run(self, vertex: Vertex, inputs: Sequence[Result]) -> Solved:
        match vertex.op:
            case ScratchOp():
                return Solved(Snapshot())
            case ImageOp():
                return Solved(Snapshot(self._images[vertex.op].layers))
            case ContextOp(name):
                return Solved(self._shop.contexts[name])
        base = inputs[0]
        if not isinstance(base, Snapshot):
            raise DockerfileError(
                "a local directory cannot be a base image", span=vertex.label.span
            )
        with self._step.step(vertex.label.name, **_attributes(vertex)) as step:
            made = self._make(vertex, base, inputs, step)
            step.note(size=made.layer.descriptor.size, digest=str(made.layer.diff_id))
        return Solved(base.plus(made.layer), made)

    def _make(self, vertex: Vertex, base: Snapshot, inputs: Sequence[Result], step: Step) -> Made:
        follower = self._follower if vertex in self._publish else None
        use = Use(follower, vertex in self._mountable, vertex.fresh, step)
        label = vertex.label
        try:
            match vertex.op:
                case MakeDirectoryOp():
                    return copying.make_directory(vertex.op, base, self._shop, use)
                case CopyOp():
                    source = inputs[1] if len(inputs) > 1 else None
                    return copying.copy(vertex.op, base, source, self._shop, use)
                case RunOp():
                    return running.run(vertex.op, inputs, self._shop, use, label)
        except UsageError as error:
            raise DockerfileError(
                error.message, span=label.span, hint=error.hint, platform=label.platform
            ) from error
        raise AssertionError(vertex.op)


def _attributes(vertex: Vertex) -> dict[str, str]:
    label: Label = vertex.label
    kind = {RunOp: "run", CopyOp: "copy", MakeDirectoryOp: "workdir"}[type(vertex.op)]
    found = {
        "kind": kind,
        "platform": label.platform,
        "stage": label.stage,
        "number": label.number,
    }
    return {key: value for key, value in found.items() if value}
