"""Names, last: documents go up by digest, children first; tags when all of them are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from shipline.build.assemble import Image
from shipline.build.uploads import Target
from shipline.content import MemoryStore
from shipline.events import Step
from shipline.oci import Descriptor, Index, Manifest, Reference
from shipline.tasks import TaskGroup


def documents(images: Sequence[Image], root: Index | Manifest) -> MemoryStore:
    """The small documents of a result."""
    raw = [document for image in images for document in (image.config_bytes, image.manifest.raw)]
    return MemoryStore(*raw, root.raw)


def push_documents(
    images: Sequence[Image], root: Index | Manifest, targets: Iterable[Target], step: Step
) -> None:
    """Put configurations, manifests and the index under their digests. No name exists yet."""
    source = documents(images, root)

    def push(target: Target) -> None:
        with step.step(f"push manifests to {target}", kind="push", host=target.host):
            _together(target, [image.config_descriptor for image in images], source)
            _together(target, [image.manifest.descriptor for image in images], source)
            target.repository.push(root.descriptor, source)

    with TaskGroup() as group:
        for target in targets:
            group.start(push, target)


def push_tags(
    root: Index | Manifest,
    tags: Iterable[Reference],
    targets: Mapping[str, Target],
    step: Step,
) -> None:
    """Give the result its names. A registry that refuses one leaves the others in place."""
    source = MemoryStore(root.raw)

    def tag(reference: Reference) -> None:
        target = targets[reference.name]
        with step.step(f"tag {reference}", kind="tag", host=target.host):
            target.repository.tag(root.descriptor, source, reference.tag or "latest")

    with TaskGroup() as group:
        for reference in tags:
            group.start(tag, reference)


def _together(target: Target, nodes: Iterable[Descriptor], source: MemoryStore) -> None:
    with TaskGroup() as group:
        for node in {node.digest: node for node in nodes}.values():
            group.start(target.repository.push, node, source)
