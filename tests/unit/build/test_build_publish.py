"""Nothing has a name before everything that it names is there."""

from __future__ import annotations

import threading

import pytest
from layers_for_tests import AMD64, ARM64

from shipline import dockerfile as df
from shipline.build.assembly import PLAIN, Assembled, Image, assemble, combine
from shipline.build.clock import Clock
from shipline.build.graph import ScratchOp, Vertex
from shipline.build.publish import PushTarget, push_documents, push_tags
from shipline.build.request import OutputFormat
from shipline.build.stages import StageState
from shipline.content import Fetcher, MemoryStore
from shipline.content.protocols import Advance
from shipline.errors import RegistryError
from shipline.events import silent
from shipline.oci import Descriptor, ImageConfig, Platform, media


class Registry(MemoryStore):
    """A repository that records, and refuses what names something that does not exist."""

    def __init__(self, log: list[str], refused: str = "") -> None:
        super().__init__()
        self.log = log
        self.refused = refused
        self.lock = threading.Lock()

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        super().push(target, source, advance)
        kind = {
            media.OCI_CONFIG: "config",
            media.OCI_MANIFEST: "manifest",
            media.OCI_INDEX: "index",
        }
        with self.lock:
            self.log.append(kind.get(target.media_type, target.media_type))

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        assert target.digest in self.blobs
        with self.lock:
            self.log.append(f"tag {tag}")
        if tag == self.refused:
            raise RegistryError("refused", host="h")
        self.tags[tag] = target


def image(platform: Platform, format: OutputFormat = PLAIN) -> Image:
    def created(vertex: Vertex) -> str:
        raise AssertionError(vertex)

    stage = StageState(Vertex(ScratchOp()), ImageConfig(platform), df.VariableScope.of_image(()))
    return assemble(stage, (), created, Clock(0), format)


def both(format: OutputFormat = PLAIN) -> Assembled:
    return combine([image(AMD64, format), image(ARM64, format)], format)


def test_documents_go_children_first_and_tags_last() -> None:
    log: list[str] = []
    registry = Registry(log)
    targets = [PushTarget("h", "a", registry, tags=("1", "latest"))]
    with silent() as step:
        push_documents({PLAIN: both()}, targets, step)
        assert registry.tags == {}
        push_tags({PLAIN: both()}, targets, step)
    assert log[:5] == ["config", "config", "manifest", "manifest", "index"]
    assert sorted(log[5:]) == ["tag 1", "tag latest"]
    assert registry.tags["1"] == both().root.descriptor


def test_what_is_there_is_asked_for_at_once() -> None:
    together = threading.Barrier(5)  # two configurations, two manifests and the index

    class Asked(Registry):
        def exists(self, target: Descriptor) -> bool:
            together.wait(timeout=60)
            return super().exists(target)

        def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
            if target.media_type == media.OCI_CONFIG:
                together.wait(timeout=60)
            self.blobs.setdefault(target.digest, b"")

    with silent() as step:
        push_documents({PLAIN: both()}, [PushTarget("h", "a", Asked([]))], step)


def test_a_single_image_is_named_itself() -> None:
    log: list[str] = []
    registry = Registry(log)
    alone = combine([image(AMD64)])
    with silent() as step:
        push_documents({PLAIN: alone}, [PushTarget("h", "a", registry, tags=("1",))], step)
        push_tags({PLAIN: alone}, [PushTarget("h", "a", registry, tags=("1",))], step)
    assert set(log) == {"config", "manifest", "tag 1"}
    assert registry.tags["1"].digest == alone.images[0].manifest.descriptor.digest


def test_each_target_gets_its_format() -> None:
    docker = OutputFormat(docker=True)
    results = {PLAIN: both(), docker: both(docker)}
    one, two = Registry([]), Registry([])
    targets = [PushTarget("h", "a", one, PLAIN, ("1",)), PushTarget("h", "b", two, docker, ("1",))]
    with silent() as step:
        push_documents(results, targets, step)
        push_tags(results, targets, step)
    assert one.tags["1"].media_type == media.OCI_INDEX
    assert two.tags["1"].media_type == media.DOCKER_INDEX


def test_by_digest_nothing_gets_a_name() -> None:
    registry = Registry([])
    targets = [PushTarget("h", "a", registry)]
    with silent() as step:
        push_documents({PLAIN: both()}, targets, step)
        push_tags({PLAIN: both()}, targets, step)
    assert registry.tags == {}
    assert both().root.descriptor.digest in registry.blobs


def test_a_refused_tag_is_an_error() -> None:
    registry = Registry([], refused="1")
    targets = [PushTarget("h", "a", registry, tags=("1",))]
    with silent() as step:
        push_documents({PLAIN: both()}, targets, step)
        with pytest.raises(RegistryError, match="refused"):
            push_tags({PLAIN: both()}, targets, step)
