"""Layers -> configuration, manifest and index: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shipline.build.cache import Made
from shipline.build.editions import PLAIN, Edition
from shipline.build.graph import Vertex
from shipline.build.planned import Note, Planned
from shipline.build.request import Level
from shipline.layer import Layer
from shipline.oci import (
    Descriptor,
    History,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    media,
)


@dataclass(frozen=True, slots=True)
class Image:
    """One platform's image, complete but for the bytes of its layers."""

    platform: Platform
    config: ImageConfig
    config_bytes: bytes
    config_descriptor: Descriptor
    manifest: Manifest
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Assembled:
    """An edition of the result. `descriptor` is that of `root`, with its annotations."""

    images: tuple[Image, ...]
    root: Index | Manifest
    descriptor: Descriptor


def assemble(
    planned: Planned,
    layers: tuple[Layer, ...],
    made: Callable[[Vertex], Made],
    *,
    epoch: str,
    now: str,
    edition: Edition = PLAIN,
) -> Image:
    """The image of one platform; `layers` are as `edition` has them.

    `epoch`, if any, replaces every time that this build adds.
    """
    history = _history(planned, made, epoch)
    created = epoch or (history[-1].created if history else "") or planned.image.created or now
    config = replace(
        planned.image,
        diff_ids=tuple(layer.diff_id for layer in layers),
        history=history,
        created=created,
    )
    raw = config.to_bytes()
    config_type = media.DOCKER_CONFIG if edition.docker else media.OCI_CONFIG
    descriptor = Descriptor.of(raw, config_type)
    manifest = Manifest.make(
        descriptor,
        [_typed(layer.descriptor, edition).plain for layer in layers],
        media_type=media.DOCKER_MANIFEST if edition.docker else media.OCI_MANIFEST,
        annotations=edition.annotated(Level.MANIFEST, config.platform),
    )
    return Image(config.platform, config, raw, descriptor, manifest, layers)


def combine(
    images: Sequence[Image], edition: Edition = PLAIN, *, indexed: bool = False
) -> Assembled:
    """An index over the images of all platforms, in the order asked for; one image stands alone,
    unless it is to be `indexed`.
    """
    described = [
        replace(
            image.manifest.descriptor,
            annotations=edition.annotated(Level.MANIFEST_DESCRIPTOR, image.platform),
        )
        for image in images
    ]
    if len(images) == 1 and not indexed:
        return Assembled(tuple(images), images[0].manifest, described[0])
    index = Index.make(
        (
            replace(one, platform=image.platform)
            for one, image in zip(described, images, strict=True)
        ),
        media_type=media.DOCKER_INDEX if edition.docker else media.OCI_INDEX,
        annotations=edition.annotated(Level.INDEX),
    )
    notes = edition.annotated(Level.INDEX_DESCRIPTOR)
    return Assembled(tuple(images), index, replace(index.descriptor, annotations=notes))


_DOCKER_TYPES = {
    media.OCI_LAYER: media.DOCKER_LAYER,
    media.OCI_LAYER_GZIP: media.DOCKER_LAYER_GZIP,
}
_OCI_TYPES = {docker: oci for oci, docker in _DOCKER_TYPES.items()}


def _typed(layer: Descriptor, edition: Edition) -> Descriptor:
    types = _DOCKER_TYPES if edition.docker else _OCI_TYPES
    return replace(layer, media_type=types.get(layer.media_type, layer.media_type))


def _history(planned: Planned, made: Callable[[Vertex], Made], epoch: str) -> tuple[History, ...]:
    """The base's history and ours. An entry without a layer takes the time of the layer before
    it; those before the first layer take that one's, so that equal builds are equal documents.
    """
    times = [_created(note, made, epoch) for note in planned.notes]
    first = next(filter(None, times), planned.image.created)
    entries = []
    for note, time in zip(planned.notes, times, strict=True):
        first = time or first
        empty = note.vertex is None
        entries.append(History(first, note.text, comment=note.comment, empty_layer=empty))
    return (*planned.image.history, *entries)


def _created(note: Note, made: Callable[[Vertex], Made], epoch: str) -> str:
    if epoch:
        return epoch
    return made(note.vertex).created if note.vertex is not None else ""
