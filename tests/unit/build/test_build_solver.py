"""Equal work is done once, ready work at once, and the first failure ends it all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from layers_for_tests import items_of, make_layer, open_solver, open_worker

from shipline.build import copying
from shipline.build.base_images import BaseImage
from shipline.build.graph import (
    ContextOp,
    CopyOp,
    ImageOp,
    MakeDirectoryOp,
    RunOp,
    ScratchOp,
    Vertex,
    VertexLabel,
)
from shipline.build.selecting import ContextDirectory
from shipline.build.snapshots import Snapshots
from shipline.content import MemoryStore, Repository
from shipline.content.readers import VerifiedReader
from shipline.errors import DockerfileError, SandboxError, Span
from shipline.events import Event, Finished, Started, Stream
from shipline.oci import Descriptor, Digest, ImageConfig, Platform, Reference
from shipline.sandbox import Sandbox
from shipline.tasks import TaskGroup, sleep

SCRATCH = Vertex(ScratchOp())
SPAN = Span("Dockerfile", 3, 3, text="COPY a /")


def directory(place: Path, prune: object = None) -> ContextDirectory:
    place.mkdir(parents=True, exist_ok=True)
    (place / "a").write_text("content")
    return ContextDirectory(place, "the context", prune)  # type: ignore[arg-type]


def written(
    text: str, *, below: Vertex = SCRATCH, name: str = "", fresh: bool = False, link: bool = False
) -> Vertex:
    """A COPY of a file that stands in the Dockerfile."""
    op = CopyOp((), "/file", (("file", text),), link=link)
    return Vertex(op, (below,), VertexLabel(name or text), fresh)


def copied(context: str) -> Vertex:
    inputs = (SCRATCH, Vertex(ContextOp(context)))
    return Vertex(CopyOp(("a",), "/"), inputs, VertexLabel(context, span=SPAN))


def solve(
    state: Path, *roots: Vertex, **contexts: ContextDirectory
) -> tuple[list[Event], list[str]]:
    """All events, and the diff IDs of the top layers."""
    seen: list[Event] = []
    with (
        Stream(seen.append) as stream,
        stream.step("build") as step,
        open_worker(state, step=step) as worker,
    ):
        found = open_solver(worker, step, contexts=contexts)
        with TaskGroup() as group:
            found.start(group, *roots)
        return seen, [found.result(one).snapshot.diff_ids[-1] for one in roots]


def names(events: list[Event]) -> list[str]:
    return [one.name for one in events if isinstance(one, Started)][1:]


def cached(events: list[Event]) -> list[bool]:
    return [one.cached for one in events if isinstance(one, Finished)][:-1]


def test_equal_vertices_run_once(tmp_path: Path) -> None:
    roots = [written("same", name=f"{number}") for number in range(8)]
    events, found = solve(tmp_path, *roots)
    assert len(names(events)) == 1
    assert len(set(found)) == 1


def test_equal_content_is_one_layer_for_different_bases(tmp_path: Path) -> None:
    bases = [written("below", name="one"), written("other", name="two")]
    top = [written("same", below=base, name=f"top of {base}", link=True) for base in bases]
    events, found = solve(tmp_path, *top)
    assert len(names(events)) == 4
    assert found[0] == found[1]


def test_independent_stages_run_at_the_same_time(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=60)

    def meet(path: str, is_directory: bool) -> bool:
        meeting.wait()
        return False

    one, two = (directory(tmp_path / name, meet) for name in ("one", "two"))
    solve(tmp_path / "state", copied("one"), copied("two"), one=one, two=two)
    assert not meeting.broken


def test_the_first_failure_cancels_the_rest(tmp_path: Path) -> None:
    started = threading.Event()

    def wait(path: str, is_directory: bool) -> bool:
        started.set()
        sleep(60)
        return False

    def refuse(path: str, is_directory: bool) -> bool:
        started.wait(60)
        return True

    slow, wrong = directory(tmp_path / "slow", wait), directory(tmp_path / "wrong", refuse)
    begun = time.monotonic()
    with pytest.raises(DockerfileError, match='"/a": not found') as caught:
        solve(tmp_path / "state", copied("slow"), copied("wrong"), slow=slow, wrong=wrong)
    assert time.monotonic() - begun < 20
    assert caught.value.span == SPAN


def test_a_second_build_finds_everything(tmp_path: Path) -> None:
    place = directory(tmp_path / "context")
    top = Vertex(MakeDirectoryOp("/w/x"), (copied("context"),), VertexLabel("WORKDIR"))
    first, one = solve(tmp_path / "state", top, context=place)
    second, two = solve(tmp_path / "state", top, context=place)
    assert one == two
    assert cached(first) == [False, False]
    assert cached(second) == [True, True]


def test_a_changed_file_is_a_miss_and_an_older_one_a_hit(tmp_path: Path) -> None:
    place = directory(tmp_path / "context")
    state = tmp_path / "state"
    _, one = solve(state, copied("context"), context=place)
    (place.path / "a").write_text("changed")
    _, two = solve(state, copied("context"), context=directory_as_is(place))
    (place.path / "a").write_text("content")
    again, three = solve(state, copied("context"), context=directory_as_is(place))
    assert one == three != two
    assert cached(again) == [True]


def directory_as_is(place: ContextDirectory) -> ContextDirectory:
    """The same directory, looked at again."""
    return ContextDirectory(place.path, place.name, place.prune, place.cache)


def test_fresh_work_is_done_again(tmp_path: Path) -> None:
    solve(tmp_path, written("text"))
    events, _ = solve(tmp_path, written("text", fresh=True))
    assert cached(events) == [False]


def test_a_directory_is_no_base(tmp_path: Path) -> None:
    place = directory(tmp_path / "context")
    on_top = Vertex(MakeDirectoryOp("/w"), (Vertex(ContextOp("context")),), VertexLabel("WORKDIR"))
    with pytest.raises(DockerfileError, match="cannot be a base image"):
        solve(tmp_path / "state", on_top, context=place)


def test_an_image_brings_its_layers_and_a_step_adds_one(tmp_path: Path) -> None:
    op = ImageOp(Digest.of(b"manifest"))
    with (
        Stream() as stream,
        stream.step("build") as step,
        open_worker(tmp_path, step=step) as worker,
    ):
        layer = make_layer(worker.store, items_of({"base": "1"}))
        image = BaseImage(
            Reference.parse("base"), op, ImageConfig(Platform("linux", "amd64")), (layer,)
        )
        found = open_solver(worker, step, {op: image})
        root = written("text", below=Vertex(op))
        with TaskGroup() as group:
            found.start(group, root)
        solved = found.result(root)
    assert solved.snapshot.layers[0] == layer
    assert solved.added is not None
    assert solved.snapshot.layers[1:] == (solved.added.layer,)
    assert solved.added.level == 1


def test_a_runtime_is_tried_while_a_layer_below_a_command_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_WORTH_KEEPING", 1)
    monkeypatch.setattr(Snapshots, "mounts_tars", False)
    tried: list[bool] = []
    op = RunOp(("true",), (), "/", "", "linux/unknown")
    below = copied("one")

    def try_runtime() -> Sandbox:
        tried.append(solver.is_solved(below))
        raise SandboxError("no runtime works here")

    for text in ("content", "content", "changed"):
        one = directory(tmp_path / "one")
        (one.path / "a").write_text(text)
        with (
            Stream(print) as stream,
            stream.step("build") as step,
            open_worker(tmp_path / "state", step=step) as worker,
        ):
            contexts = {"one": one}
            solver = open_solver(worker, step, contexts=contexts, open_sandbox=try_runtime)
            with pytest.raises(SandboxError, match="cannot run for"), TaskGroup() as group:
                solver.start(group, Vertex(op, (below,), VertexLabel("run")))
    assert tried == [False, False], "not for the layer that was there"


class Meeting(MemoryStore):
    """A registry that sends no layer before two are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2, timeout=60)

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        self.barrier.wait()
        with super().fetch(target) as reader:
            yield reader


def test_a_base_is_a_step_before_the_steps_that_need_it_and_its_layers_come_at_once(
    tmp_path: Path,
) -> None:
    registry = Meeting()
    layers = tuple(make_layer(registry, items_of({name: name})) for name in ("one", "two"))
    op, platform = ImageOp(Digest.of(b"manifest")), Platform("linux", "amd64")
    image = BaseImage(Reference.parse("base"), op, ImageConfig(platform), layers)
    base = Vertex(op, label=VertexLabel("FROM base", number="1/2", platform=str(platform)))
    top = Vertex(MakeDirectoryOp("/work"), (base,), VertexLabel("WORKDIR /work"))
    first, again = (_names(tmp_path, image, registry, top) for _ in range(2))
    assert (first[0], first[-1]) == ("FROM base", "WORKDIR /work")
    assert sorted(name.split()[0] for name in first[1:-1]) == ["pull", "pull", "unpack", "unpack"]
    assert again == ["FROM base", "WORKDIR /work"]  # shown, though nothing of it is needed


def test_files_of_a_context_are_listed_while_a_base_is_downloaded(tmp_path: Path) -> None:
    listed = threading.Event()

    def list_one(path: str, is_directory: bool) -> bool:
        listed.set()
        return False

    class Waiting(MemoryStore):
        @contextmanager
        def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
            assert listed.wait(60)
            with super().fetch(target) as reader:
                yield reader

    registry = Waiting()
    layer = make_layer(registry, items_of({"file": "below"}))
    op = ImageOp(Digest.of(b"manifest"))
    config = ImageConfig(Platform("linux", "amd64"))
    image = BaseImage(Reference.parse("base"), op, config, (layer,))
    inputs = (Vertex(op, label=VertexLabel("FROM base")), Vertex(ContextOp("here")))
    top = Vertex(CopyOp(("a",), "/"), inputs, VertexLabel("COPY a /"))
    here = directory(tmp_path / "here", list_one)
    assert _names(tmp_path, image, registry, top, here=here)[-1] == "COPY a /"


def _names(
    state: Path, image: BaseImage, registry: Repository, top: Vertex, **contexts: ContextDirectory
) -> list[str]:
    """What is shown in the order of its beginning; a step begins when what it needs is there."""
    seen: list[Event] = []
    with (
        Stream(seen.append) as stream,
        stream.step("build") as step,
        open_worker(state, step=step) as worker,
    ):
        for layer in image.layers:
            worker.snapshots._blobs.offer(layer.descriptor, registry, "registry/base")
        found = open_solver(worker, step, {image.manifest: image}, contexts)
        with TaskGroup() as group:
            found.start(group, top)
    spans = {one.span: one.name for one in seen if isinstance(one, Started)}
    ended = [spans[one.span] for one in seen if isinstance(one, Finished)]
    assert ended[-2:] == [top.label.name, "build"]
    return [one.name for one in seen if isinstance(one, Started)][1:]
