"""Names, last: documents go up by digest, children first; tags when all of them are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shipline.build.assemble import Assembled
from shipline.build.editions import Edition
from shipline.build.uploads import Target
from shipline.content import MemoryStore
from shipline.events import Step
from shipline.oci import Descriptor
from shipline.tasks import TaskGroup

Editions = Mapping[Edition, Assembled]
_AT_ONCE = 8  # requests of one kind


def push_documents(editions: Editions, targets: Iterable[Target], step: Step) -> None:
    """Put configurations, manifests and the index under their digests. No name exists yet."""

    def push(target: Target) -> None:
        result = editions[target.edition]
        source = _documents(result)
        with step.step(f"push manifests to {target}", kind="push", host=target.host):
            _together(target, [image.config_descriptor for image in result.images], source)
            _together(target, [image.manifest.descriptor for image in result.images], source)
            target.repository.push(result.root.descriptor, source)

    with TaskGroup() as group:
        for target in targets:
            group.start(push, target)


def push_tags(editions: Editions, targets: Iterable[Target], step: Step) -> None:
    """Give the result its names. A registry that refuses one leaves the others in place."""

    def tag(target: Target, name: str) -> None:
        root = editions[target.edition].root
        with step.step(f"tag {target}:{name}", kind="tag", host=target.host):
            target.repository.tag(root.descriptor, MemoryStore(root.raw), name)

    with TaskGroup(_AT_ONCE) as group:
        for target in targets:
            for name in target.tags:
                group.start(tag, target, name)


def _documents(result: Assembled) -> MemoryStore:
    """The small documents of a result."""
    images = result.images
    raw = [document for image in images for document in (image.config_bytes, image.manifest.raw)]
    return MemoryStore(*raw, result.root.raw)


def _together(target: Target, nodes: Iterable[Descriptor], source: MemoryStore) -> None:
    with TaskGroup(_AT_ONCE) as group:
        for node in {node.digest: node for node in nodes}.values():
            group.start(target.repository.push, node, source)
