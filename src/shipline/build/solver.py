"""The solver: ready vertices run at once, equal ones only once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from shipline.build import copying, running
from shipline.build.base_images import BaseImage
from shipline.build.cache import LayerResult, alone
from shipline.build.copying import StepOptions
from shipline.build.downloads import place_file
from shipline.build.graph import (
    ContextOp,
    CopyOp,
    HttpOp,
    ImageOp,
    Label,
    MakeDirectoryOp,
    Op,
    RunOp,
    ScratchOp,
    Vertex,
    walk,
)
from shipline.build.snapshots import Snapshot
from shipline.build.workshop import ContextDirectory, Follower, Result, Worker
from shipline.errors import DockerfileError, ShiplineError, UsageError
from shipline.events import Step
from shipline.tasks import CPUS, Once, Task, TaskGroup, visit_graph

_AT_ONCE = max(32, 4 * CPUS)  # vertices: most of them wait for registries, or for a turn to run
_KINDS: dict[type[Op], str] = {
    ImageOp: "pull",
    RunOp: "run",
    CopyOp: "copy",
    MakeDirectoryOp: "workdir",
    HttpOp: "http",
}


@dataclass(frozen=True, slots=True)
class VertexResult:
    """What a vertex came to; `made` is the step's own part, None where it has none."""

    result: Result
    made: LayerResult | None = None

    @property
    def snapshot(self) -> Snapshot:
        assert isinstance(self.result, Snapshot)
        return self.result


class Solver:
    """Runs vertices of one build. `publish` are those whose layers end in an image."""

    def __init__(
        self,
        shop: Worker,
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
        self._tasks: dict[Vertex, Task[VertexResult]] = {}
        self._prepared: Once[None] = Once()

    def start(self, group: TaskGroup, *roots: Vertex) -> None:
        """Solve in `group` everything that `roots` need: what is ready runs, the newest first."""
        for vertex in walk(*roots):
            self._tasks.setdefault(vertex, Task())
        group.start(visit_graph, roots, lambda vertex: vertex.inputs, self._solve, at_once=_AT_ONCE)

    def result(self, vertex: Vertex) -> VertexResult:
        """The result of a vertex that was started, when it is there; equal ones share it."""
        return self._tasks[vertex].result()

    def _solve(self, vertex: Vertex) -> None:
        inputs = [self.result(one).result for one in vertex.inputs]
        self._tasks[vertex].settle((self._run(vertex, inputs),))

    def _run(self, vertex: Vertex, inputs: Sequence[Result]) -> VertexResult:
        match vertex.op:
            case ScratchOp():
                return VertexResult(Snapshot())
            case ImageOp():
                return VertexResult(Snapshot(self._images[vertex.op].layers))
            case ContextOp(name):
                return VertexResult(self._shop.contexts[name])
            case HttpOp():
                return VertexResult(self._download(vertex, vertex.op))
        base = inputs[0]
        if not isinstance(base, Snapshot):
            raise DockerfileError(
                "a local directory cannot be a base image", span=vertex.label.span
            )
        with _located(vertex.label):
            made = self._step_of(vertex, base, inputs)
        return VertexResult(base.plus(made.layer), made)

    def _download(self, vertex: Vertex, op: HttpOp) -> ContextDirectory:
        """The files of the URLs, as a directory."""
        shop = self._shop
        place = shop.scratch / f"http-{os.urandom(6).hex()}"
        times = []
        try:
            with (
                _located(vertex.label),
                self._step.step(vertex.label.name, **_attributes(vertex)) as step,
            ):
                for number, (url, name, checksum) in enumerate(op.files):
                    file = shop.downloader.fetch(url, checksum, step)
                    (place / str(number)).mkdir(parents=True)
                    place_file(file, shop.store, place / str(number) / name)
                    times.append("" if checksum else file.modified)
        except ShiplineError as error:
            error.span = error.span or vertex.label.span
            raise
        return ContextDirectory("URL", place, None, None, stamp="\n".join(times))

    def _step_of(self, vertex: Vertex, base: Snapshot, inputs: Sequence[Result]) -> LayerResult:
        """The layer of a step, which people see from when it really begins."""
        key = _key(vertex.op, base, inputs)
        shared = bool(key) and not vertex.fresh
        made = self._shop.cache.get(key) if shared else None
        with ExitStack() as stack:
            if made is None and shared and isinstance(vertex.op, RunOp):
                stack.enter_context(
                    alone(self._shop.state, key)
                )  # first: who has `running` never waits
                made = self._shop.cache.get(key)
            if made is None:
                self._prepare(vertex, inputs)
            if made is None and isinstance(vertex.op, RunOp):
                stack.enter_context(self._shop.running)
            step = stack.enter_context(self._step.step(vertex.label.name, **_attributes(vertex)))
            if made is None:
                made = self._make(vertex, base, inputs, key, step)
            else:
                step.cached()
            step.note(size=made.layer.descriptor.size, digest=str(made.layer.diff_id))
        return made

    def _prepare(self, vertex: Vertex, inputs: Sequence[Result]) -> None:
        """Bring what the step needs of base images, so that its own time is its own."""
        for number, (one, result) in enumerate(zip(vertex.inputs, inputs, strict=True)):
            *_, bottom = one.chain()
            if not isinstance(bottom.op, ImageOp) or not isinstance(result, Snapshot):
                continue
            if isinstance(vertex.op, CopyOp) and vertex.op.link and number == 0:
                continue
            files = isinstance(vertex.op, RunOp) or number > 0 or bottom in self._mountable
            self._prepared.get((bottom, files), partial(self._pull, bottom, files))

    def _pull(self, image: Vertex, files: bool) -> None:
        assert isinstance(image.op, ImageOp)
        snapshots, label = self._shop.snapshots, image.label
        layers = self._images[image.op].layers
        absent = snapshots.absent(layers, files=files)
        if not absent:
            return
        name = label.name
        if all(self._shop.store.exists(layer.descriptor) for layer in absent):
            name = name.replace("FROM", "unpack", 1)
        try:
            with self._step.step(name, **_attributes(image)) as step:
                snapshots.prepare(absent, step, files=files)
        except ShiplineError as error:
            error.span = error.span or label.span
            raise

    def _make(
        self, vertex: Vertex, base: Snapshot, inputs: Sequence[Result], key: str, step: Step
    ) -> LayerResult:
        follower = self._follower if vertex in self._publish else None
        label = vertex.label
        use = StepOptions(follower, vertex in self._mountable, vertex.fresh, step, label.origin)
        match vertex.op:
            case MakeDirectoryOp():
                return copying.make_directory(vertex.op, base, self._shop, use)
            case CopyOp():
                source = inputs[1] if len(inputs) > 1 else None
                return copying.copy(vertex.op, base, source, self._shop, use)
            case RunOp():
                return running.run(vertex.op, inputs, key, self._shop, use, label)
        raise AssertionError(vertex.op)


@contextmanager
def _located(label: Label) -> Iterator[None]:
    """Raises DockerfileError, with the place, for a UsageError."""
    try:
        yield
    except UsageError as error:
        raise DockerfileError(
            error.message, span=label.span, hint=error.hint, platform=label.platform
        ) from error


def _key(op: Op, base: Snapshot, inputs: Sequence[Result]) -> str:
    """What an earlier result is found by before any file is looked at; empty for nothing."""
    if isinstance(op, RunOp):
        return running.run_key(op, inputs)
    assert isinstance(op, CopyOp | MakeDirectoryOp)
    return copying.quick_key(op, base, inputs[1] if len(inputs) > 1 else None)


def _attributes(vertex: Vertex) -> dict[str, str]:
    label: Label = vertex.label
    kind = _KINDS[type(vertex.op)]
    found = {
        "kind": kind,
        "platform": label.platform,
        "stage": label.stage,
        "number": label.number,
    }
    return {key: value for key, value in found.items() if value}
