"""The solver: vertices run as soon as their inputs are ready, equal ones only once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import MappingProxyType

from msgspec import Struct

from shipline.build.base_images import BaseImage
from shipline.build.cache import LayerResult
from shipline.build.copying import copy, instruction_key, list_files, make_directory
from shipline.build.executor import Executor
from shipline.build.graph import (
    ContextOp,
    CopyOp,
    GitOp,
    HttpOp,
    ImageOp,
    MakeDirectoryOp,
    Material,
    Op,
    RunOp,
    ScratchOp,
    Vertex,
    VertexLabel,
    walk,
)
from shipline.build.key_digests import key_parts
from shipline.build.remotes import Remotes
from shipline.build.running import prepare_commands, run, run_key
from shipline.build.selecting import ContextDirectory
from shipline.build.snapshots import Snapshot
from shipline.build.worker import Follower, Source, StepOptions, Worker
from shipline.errors import DockerfileError, ShiplineError, StepFailed, located
from shipline.events import Attribute, Step
from shipline.layer import Layer
from shipline.oci import Platform
from shipline.tasks import CPUS, Limiter, Once, Task, TaskGroup, visit_graph
from shipline.values import replace

_AT_ONCE = max(32, 4 * CPUS)  # vertices: most of them wait for registries or for their turn
_KINDS: dict[type[Op], str] = {
    ImageOp: "pull",
    RunOp: "run",
    CopyOp: "copy",
    MakeDirectoryOp: "workdir",
    GitOp: "git",
    HttpOp: "http",
}


class VertexResult(Struct, frozen=True):
    """The files of a vertex, the layer that it added, None for images and contexts, and where what
    it fetched is from.
    """

    files: Source
    added: LayerResult | None = None
    materials: tuple[Material, ...] = ()

    @property
    def snapshot(self) -> Snapshot:
        assert isinstance(self.files, Snapshot)
        return self.files


def command_limiter() -> Limiter:
    """How many commands run at once."""
    return Limiter(max(4, 2 * CPUS))


class Solver:
    """Runs vertices of one build; `followers` says who gets the bytes of layers that end in an
    image (`True`), and of others.

    `on_result` is called with what a vertex stands on and what it added.
    """

    def __init__(
        self,
        worker: Worker,
        executor: Executor,
        remotes: Remotes,
        contexts: Mapping[str, ContextDirectory],
        images: Mapping[ImageOp, BaseImage],
        step: Step,
        followers: Callable[[bool], Follower | None] = lambda published: None,
        on_result: Callable[[Vertex, Snapshot, LayerResult], object] | None = None,
        commands: Limiter | None = None,
    ) -> None:
        self._worker = worker
        self._executor = executor
        self._remotes = remotes
        self._contexts = contexts
        self._images = images
        self._step = step
        self._followers = followers
        self._known: dict[Vertex, LayerResult] = {}
        self._on_result = on_result
        self._published: set[Vertex] = set()
        self._mountable: set[Vertex] = set()
        self._platforms: set[str] = set()  # of commands
        self._commands = commands or command_limiter()
        self._tasks: dict[Vertex, Task[VertexResult]] = {}
        self._prepared: Once[None] = Once()
        self._bases: Once[None] = Once()  # that were shown

    def start(
        self,
        group: TaskGroup,
        *roots: Vertex,
        known: Mapping[Vertex, LayerResult] = MappingProxyType({}),
    ) -> None:
        """Solve in `group` everything that `roots` need; the newest ready vertex runs first.

        `known` has the results of vertices that need not run, and of those below each: other inputs
        of these are not needed.
        """
        self._known.update(known)
        for vertex in walk(*roots):
            self._tasks.setdefault(vertex, Task())
            if isinstance(vertex.op, RunOp):
                self._mountable.update(below for one in vertex.inputs for below in one.chain())
                self._platforms.add(vertex.op.platform)
            elif isinstance(vertex.op, CopyOp) and len(vertex.inputs) > 1:
                self._mountable.update(below for one in vertex.inputs[1:] for below in one.chain())
        self._published.update(vertex for root in roots for vertex in root.chain())
        group.start(visit_graph, roots, self._needed, self._solve, at_once=_AT_ONCE)

    def _needed(self, vertex: Vertex) -> tuple[Vertex, ...]:
        """The inputs to solve first."""
        return vertex.inputs[:1] if vertex in self._known else vertex.inputs

    def result(self, vertex: Vertex) -> VertexResult:
        """The result of a vertex that was started; waits for it. Equal vertices share it."""
        return self._tasks[vertex].result()

    def layers(self, root: Vertex) -> Iterator[tuple[Layer, LayerResult | None]]:
        """The layers of a vertex, bottom first, each with the result of the step that added it;
        waits for each.
        """
        known = 0
        for vertex in reversed([*root.chain()]):
            found = self.result(vertex)
            layers = found.snapshot.layers
            for layer in layers[known:]:
                yield layer, found.added
            known = len(layers)

    def is_solved(self, vertex: Vertex) -> bool:
        """Whether the vertex was needed, and has a result."""
        return vertex in self._tasks and self._tasks[vertex].settled

    def _solve(self, vertex: Vertex) -> None:
        if not self.is_solved(vertex):
            inputs = [self.result(one).files for one in self._needed(vertex)]
            self._tasks[vertex].settle((self._run(vertex, inputs),))

    def _run(self, vertex: Vertex, inputs: Sequence[Source]) -> VertexResult:
        match vertex.op:
            case ScratchOp():
                return VertexResult(Snapshot())
            case ImageOp():
                return VertexResult(Snapshot(self._images[vertex.op].layers))
            case ContextOp(name):
                return _of_context(self._contexts[name])
            case GitOp(source):
                with _located(vertex.label), self._shown(vertex):
                    return _of_context(self._remotes.git(source, self._step))
            case HttpOp():
                with _located(vertex.label), self._shown(vertex) as step:
                    return _of_context(self._remotes.http(vertex.op, step))
        base = inputs[0]
        if not isinstance(base, Snapshot):
            raise DockerfileError(
                "a local directory cannot be a base image",
                code="base-image-local",
                span=vertex.label.span,
            )
        with _located(vertex.label):
            if vertex in self._known:
                added = self._take(vertex, self._known[vertex])
            else:
                added = self._add_layer(vertex, base, inputs)
        if added.layer.windows != base.windows:  # caches do not say it
            added = replace(added, layer=replace(added.layer, windows=base.windows))
        if self._on_result is not None:
            self._on_result(vertex, base, added)
        return VertexResult(base.plus(added.layer), added)

    def _take(self, vertex: Vertex, found: LayerResult) -> LayerResult:
        """A result that is known, shown as any other."""
        self._show_bases(vertex)
        with self._shown(vertex) as step:
            step.cached()
            step.note(**_layer_facts(found))
        return found

    def _shown(self, vertex: Vertex, **more: Attribute) -> AbstractContextManager[Step]:
        return self._step.step(vertex.label.name, **_attributes(vertex), **more)

    def _add_layer(self, vertex: Vertex, base: Snapshot, inputs: Sequence[Source]) -> LayerResult:
        """The layer of a step; a command that is to run again runs once in all builds of a run."""
        key = _key(vertex.op, base, inputs)
        if not (key and vertex.fresh and isinstance(vertex.op, RunOp)):
            return self._find_or_make(vertex, key, base, inputs)
        made: list[LayerResult] = []

        def make() -> LayerResult:
            made.append(self._find_or_make(vertex, key, base, inputs))
            return made[0]

        found, _ = self._worker.cache.once(key, make, fresh=True)
        return found if made else self._take(vertex, found)

    def _find_or_make(
        self, vertex: Vertex, key: str, base: Snapshot, inputs: Sequence[Source]
    ) -> LayerResult:
        """The layer of a step, which is shown when its own work begins."""
        cache, is_run = self._worker.cache, isinstance(vertex.op, RunOp)
        shared = bool(key) and not vertex.fresh
        found = cache.get(key) if shared else None
        with ExitStack() as stack:
            if found is None and shared and is_run:
                # before the limiter, so that commands with a slot never wait for others
                stack.enter_context(cache.exclusive(key))
                found = cache.get(key)
            if found is None:
                self._prepare(vertex, inputs)
            else:
                self._show_bases(vertex)
            waited: dict[str, Attribute] = {}
            if found is None and is_run:
                ready = time.monotonic()
                stack.enter_context(self._commands)
                waited = {"waited": time.monotonic() - ready}
            step = stack.enter_context(self._shown(vertex, **waited))
            step.note(parts=key_parts(vertex, inputs))
            if found is not None:
                step.cached()
            added = found or self._make(vertex, base, inputs, step)
            if found is None and key:
                cache.put(key, added)
            step.note(**_layer_facts(added))
        return added

    def _prepare(self, vertex: Vertex, inputs: Sequence[Source]) -> None:
        """Bring base images and repositories here, so that this is not part of the step's time. The
        files of repositories and contexts are listed while images are downloaded.
        """
        for one, result in zip(vertex.inputs, inputs, strict=True):
            if isinstance(result, ContextDirectory):
                with _located(one.label):
                    result.open()
        for number, (one, result) in enumerate(zip(vertex.inputs, inputs, strict=True)):
            *_, bottom = one.chain()
            if not isinstance(bottom.op, ImageOp) or not isinstance(result, Snapshot):
                continue
            if isinstance(vertex.op, CopyOp) and vertex.op.link and number == 0:
                continue
            files = isinstance(vertex.op, RunOp) or number > 0 or bottom in self._mountable
            with TaskGroup() as group:
                meanwhile = partial(group.start, list_files, vertex.op, inputs[1:])
                self._prepared.get((bottom, files), partial(self._pull, bottom, files, meanwhile))

    def _show_bases(self, vertex: Vertex) -> None:
        """Show the base images of a step that needs nothing of them: BuildKit does, too."""
        for one in vertex.inputs:
            *_, bottom = one.chain()
            if isinstance(bottom.op, ImageOp):
                self._bases.get(bottom, partial(self._show_base, bottom))

    def _show_base(self, image: Vertex) -> None:
        if image.label.number:  # it begins a stage
            with self._shown(image) as step:
                step.cached()

    def _pull(self, image: Vertex, files: bool, meanwhile: Callable[[], object]) -> None:
        assert isinstance(image.op, ImageOp)
        snapshots, label = self._worker.snapshots, image.label
        layers = self._images[image.op].layers
        absent = snapshots.absent(layers, files=files)
        if not absent:
            self._bases.get(image, partial(self._show_base, image))
            return
        self._bases.get(image, lambda: None)
        name = label.name
        if all(self._worker.store.exists(layer.descriptor) for layer in absent):
            name = name.replace("FROM", "unpack", 1)
        meanwhile()
        with _located(label), self._step.step(name, **_attributes(image)) as step:
            snapshots.prepare(absent, step, files=files)

    def _make(
        self, vertex: Vertex, base: Snapshot, inputs: Sequence[Source], step: Step
    ) -> LayerResult:
        options = StepOptions(
            step,
            self._followers(vertex in self._published),
            vertex in self._mountable,
            vertex.fresh,
            vertex.label.origin,
            windows=base.windows,
        )
        match vertex.op:
            case MakeDirectoryOp():
                return make_directory(vertex.op, base, self._worker, options)
            case CopyOp():
                with TaskGroup() as group:
                    ready = partial(self._prepare_commands, group)
                    own = replace(options, on_start=ready)
                    return copy(vertex.op, base, inputs[1:], self._worker, own)
            case RunOp():
                return run(vertex.op, inputs, self._worker, self._executor, options)
        raise AssertionError(vertex.op)

    def _prepare_commands(self, group: TaskGroup) -> None:
        """Find out in `group` how commands can run, while a layer below them is made."""
        if self._platforms:
            platforms = map(Platform.parse, sorted(self._platforms))
            group.start(prepare_commands, self._executor, platforms)


def _of_context(directory: ContextDirectory) -> VertexResult:
    return VertexResult(directory, materials=directory.materials)


@contextmanager
def _located(label: VertexLabel) -> Iterator[None]:
    """Adds the position in the Dockerfile to errors; a UsageError becomes a DockerfileError."""
    try:
        with located(label.span, platform=label.platform):
            yield
    except ShiplineError as error:
        error.span = error.span or label.span
        if isinstance(error, StepFailed):
            error.hint = error.hint or label.hint
        raise


def _key(op: Op, base: Snapshot, inputs: Sequence[Source]) -> str:
    """The cache key that needs no files of a context; empty for none."""
    if isinstance(op, RunOp):
        return run_key(op, inputs)
    assert isinstance(op, CopyOp | MakeDirectoryOp)
    return instruction_key(op, base, inputs[1:])


def _layer_facts(result: LayerResult) -> dict[str, Attribute]:
    """`blob` is also an attribute of the uploads of the layer."""
    layer = result.layer
    blob = layer.descriptor
    return {"size": blob.size, "digest": str(layer.diff_id), "blob": str(blob.digest)}


def _attributes(vertex: Vertex) -> dict[str, Attribute]:
    label: VertexLabel = vertex.label
    kind = _KINDS[type(vertex.op)]
    span = label.span
    found: dict[str, Attribute] = {
        "kind": kind,
        "platform": label.platform,
        "stage": label.stage,
        "number": label.number,
        "vertex": vertex.digest,
        "inputs": " ".join(one.digest for one in vertex.inputs if type(one.op) in _KINDS),
    }
    if span is not None:
        found |= {"file": span.file, "line": span.line, "end": span.end}
    if vertex.fresh:
        found["fresh"] = True
    return {key: value for key, value in found.items() if value}
