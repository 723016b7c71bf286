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
from shipline.tasks import CPUS, Task, TaskGroup, visit_graph

_AT_ONCE = max(32, 4 * CPUS)  # vertices: most of them wait for registries, or for a turn to run


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
        self._tasks: dict[Vertex, Task[Solved]] = {}

    def start(self, group: TaskGroup, *roots: Vertex) -> None:
        """Solve in `group` everything that `roots` need: what is ready runs, the newest first."""
        for vertex in walk(*roots):
            self._tasks.setdefault(vertex, Task())
        group.start(visit_graph, roots, lambda vertex: vertex.inputs, self._solve, at_once=_AT_ONCE)

    def result(self, vertex: Vertex) -> Solved:
        """The result of a vertex that was started, when it is there; equal ones share it."""
        return self._tasks[vertex].result()

    def _solve(self, vertex: Vertex) -> None:
        inputs = [self.result(one).result for one in vertex.inputs]
        self._tasks[vertex].settle((self._run(vertex, inputs),))

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
        label = vertex.label
        use = Use(follower, vertex in self._mountable, vertex.fresh, step, label.origin)
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
