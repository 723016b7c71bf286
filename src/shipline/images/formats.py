"""Manifests of one format made into those of the other: OCI's, and Docker's schema 2.

Configurations and layers stay byte for byte; types and digests of manifests change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from shipline.content import Fetcher, MemoryStore, Reader, fetch_document
from shipline.errors import ContentError
from shipline.oci import (
    MAX_DEPTH,
    NO_ANNOTATIONS,
    REFERENCE_DIGEST,
    Descriptor,
    Index,
    Manifest,
    media,
)
from shipline.supply import StatementSource
from shipline.values import replace

_DOCKER_LAYERS = {
    media.OCI_LAYER: media.DOCKER_LAYER,
    media.OCI_LAYER_GZIP: media.DOCKER_LAYER_GZIP,
    media.OCI_FOREIGN: media.DOCKER_FOREIGN,
    media.OCI_FOREIGN_GZIP: media.DOCKER_FOREIGN_GZIP,
}
_OCI_LAYERS = {docker: oci for oci, docker in _DOCKER_LAYERS.items()}


class ImageFormat(StrEnum):
    """A format of manifests; the values are skopeo's names."""

    OCI = "oci"
    DOCKER = "v2s2"


class ConvertedSource:
    """A repository whose images have manifests of one format."""

    def __init__(self, source: StatementSource, format: ImageFormat) -> None:
        self.wrapped = source
        self._documents = MemoryStore()
        self._is_docker = format is ImageFormat.DOCKER

    def converted(self, target: Descriptor) -> Descriptor:
        """What stands for `target`: itself if it has the format. Raises ContentError for what the
        format has no place for.
        """
        return self._converted(target, MAX_DEPTH)

    def _converted(self, target: Descriptor, depth: int) -> Descriptor:
        parsed = fetch_document(self.wrapped, target)
        if isinstance(parsed, Manifest):
            made: Manifest | Index = self._manifest(parsed)
        else:
            made = self._index(parsed, depth)
        if made is parsed:
            return target
        return self._documents.add(made.raw, made.media_type)

    def _manifest(self, image: Manifest) -> Manifest:
        if image.media_type == (media.DOCKER_MANIFEST if self._is_docker else media.OCI_MANIFEST):
            return image
        if image.config.media_type not in media.CONFIGS:
            raise ContentError(
                f"{image.descriptor.digest} is an artifact of the type {image.config.media_type}:"
                " only images have a format",
                code="layer-unsupported",
            )
        layers = [self._layer(layer) for layer in image.layers]
        config = replace(
            image.config.plain,
            media_type=media.DOCKER_CONFIG if self._is_docker else media.OCI_CONFIG,
        )
        return Manifest.make(
            config,
            layers,
            media_type=media.DOCKER_MANIFEST if self._is_docker else media.OCI_MANIFEST,
            annotations=NO_ANNOTATIONS if self._is_docker else image.annotations,
        )

    def _layer(self, layer: Descriptor) -> Descriptor:
        types = _DOCKER_LAYERS if self._is_docker else _OCI_LAYERS
        if layer.media_type in types.values():
            return layer
        if layer.media_type not in types:
            raise ContentError(
                f"a layer is {layer.media_type}, which the format has no place for",
                code="layer-unsupported",
                hint="Docker's schema 2 has gzip alone: build the image with it" * self._is_docker,
            )
        new = replace(layer.plain, media_type=types[layer.media_type], urls=layer.urls)
        return new if self._is_docker else replace(new, annotations=layer.annotations)

    def _index(self, index: Index, depth: int) -> Index:
        kept = [one for one in index.manifests if not self._is_without_place(one)]
        entries, changed = [], set[str]()
        for one in kept:
            new = one if one.media_type not in media.NAMED or not depth else self._entry(one, depth)
            if new.digest != one.digest:
                changed.add(str(one.digest))
            entries.append(new)
        entries = [one for one in entries if one.annotations.get(REFERENCE_DIGEST) not in changed]
        media_type = media.DOCKER_INDEX if self._is_docker else media.OCI_INDEX
        if media_type == index.media_type and entries == list(index.manifests):
            return index
        annotations = NO_ANNOTATIONS if self._is_docker else index.annotations
        return Index.make(entries, media_type=media_type, annotations=annotations)

    def _is_without_place(self, entry: Descriptor) -> bool:
        """Whether it is an attestation of BuildKit: lists of Docker have no annotations."""
        return self._is_docker and REFERENCE_DIGEST in entry.annotations

    def _entry(self, entry: Descriptor, depth: int) -> Descriptor:
        new = self._converted(entry.plain, depth - 1)
        annotations = NO_ANNOTATIONS if self._is_docker else entry.annotations
        return replace(new, platform=entry.platform, annotations=annotations)

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        made = self._documents.exists(target)
        place: Fetcher = self._documents if made else self.wrapped
        with place.fetch(target) as reader:
            yield reader

    def resolve(self, reference: str) -> Descriptor:
        return self.wrapped.resolve(reference)

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        if self._documents.exists(target):
            return ()
        return self.wrapped.referrers(target, artifact_type)
