"""A build cache under a tag of a repository: a registry, or an OCI layout on the disk.

It is an image manifest whose configuration is the cache document and whose layers are its blobs, or
an index of both (BuildKit's `image-manifest=false`). An image may carry its cache in its own
configuration instead (`type=inline`), base64 in `moby.buildkit.cache.v0`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from shipline.content.cache_store import CACHE_DOCUMENT_LIMIT, Merge
from shipline.content.contention import attempts, settling
from shipline.content.graph import fetch_document
from shipline.content.memory import MemoryStore
from shipline.content.protocols import Advance, Fetcher, Reader, Repository, Swapper
from shipline.content.readers import fetch_all
from shipline.errors import ContentError, NotFound
from shipline.oci import (
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    from_bytes,
    media,
    to_bytes,
)
from shipline.values import replace

CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
INLINE_CACHE = "moby.buildkit.cache.v0"
"""The key of an image configuration that holds its inline cache."""

_DIFF_ID, _CREATED = "containerd.io/uncompressed", "buildkit/createdat"
_INTERNAL = (_DIFF_ID, _CREATED)
_OWN = ("mediaType", "diffID", "size", "createdAt")  # of a layer in the document
_IMAGES = 64  # of an index, that are read for their inline caches
_OCI = {docker: oci for oci, docker in media.DOCKER_LAYERS.items()}


class CacheRepository(Repository, Swapper, Protocol):
    """A Repository whose tags can be compared and swapped."""


class RepositoryCache:
    """The CacheStore under `reference`, a tag or a digest, of `repository`.

    `image_manifest` and `docker` choose the documents that are written. `name` is that of the
    repository, empty for a layout. With `clean`, what is written replaces the cache that is there,
    and `clean` is called then.
    """

    def __init__(
        self,
        repository: CacheRepository,
        reference: str,
        *,
        image_manifest: bool = True,
        docker: bool = False,
        name: str = "",
        clean: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self._clean = clean
        self._repository = repository
        self._reference = reference
        self._image_manifest = image_manifest and not docker
        self._docker = docker

    @property
    def origin(self) -> CacheRepository:
        """What `fetch` reads from: its registry can mount that in another repository."""
        return self._repository

    def exists(self, target: Descriptor) -> bool:
        return self._repository.exists(target)

    def fetch(self, target: Descriptor) -> AbstractContextManager[Reader]:
        return self._repository.fetch(target)

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        self._repository.push(target, source, advance)

    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        return self._repository.mount(target, source)

    def documents(self) -> tuple[bytes, ...]:
        root = self._resolve()
        return () if root is None else tuple(self._documents(root))

    def update(self, merge: Merge) -> None:
        """See CacheStore."""
        if self._clean is not None:
            self._repository.tag(*self._publish(merge(None)), self._reference)
            self._clean()
            return
        for _ in attempts():
            before = self._resolve()
            present = None if before is None else next(iter(self._documents(before)), None)
            merged = merge(present)
            if merged == present:
                return  # also where another writer kept what was written here
            root, source = self._publish(merged)
            known = None if before is None else before.digest
            with settling():
                swapped = self._repository.swap(root, source, self._reference, known)
            after = self._resolve() if swapped else None
            if after is not None and after.digest == root.digest:
                return
        raise ContentError(
            f"other builds keep overwriting the cache {self._reference}",
            code="cache-contended",
            hint="give each of them a tag of its own, and read from all of them",
        )

    def _publish(self, document: bytes) -> tuple[Descriptor, MemoryStore]:
        """Push the configuration; the manifest that refers to it, not pushed yet."""
        config, layers = _split(document)
        types = media.DOCKER_LAYERS if self._docker else _OCI
        layers = [
            replace(one, media_type=types.get(one.media_type, one.media_type)) for one in layers
        ]
        described = Descriptor.of(config, CACHE_CONFIG)
        root: Manifest | Index
        if self._image_manifest:
            root = Manifest.make(described, layers)
        else:
            media_type = media.DOCKER_INDEX if self._docker else media.OCI_INDEX
            root = Index.make([*layers, described], media_type=media_type)
        source = MemoryStore(config, root.raw)
        self._repository.push(described, source)
        return root.descriptor, source

    def _resolve(self) -> Descriptor | None:
        try:
            return self._repository.resolve(self._reference)
        except NotFound:
            return None

    def _documents(self, root: Descriptor) -> Iterator[bytes]:
        parsed = fetch_document(self._repository, root)
        if isinstance(parsed, Manifest):
            yield from self._of_manifest(parsed)
            return
        for one in parsed.manifests:
            if one.media_type == CACHE_CONFIG:
                config = fetch_all(self._repository, one, CACHE_DOCUMENT_LIMIT)
                yield _join(config, parsed.manifests)
                return
        images = [one for one in parsed.manifests if one.media_type in media.MANIFESTS]
        for one in images[:_IMAGES]:
            child = fetch_document(self._repository, one)
            if isinstance(child, Manifest):
                yield from self._of_manifest(child)

    def _of_manifest(self, manifest: Manifest) -> Iterator[bytes]:
        kind = manifest.config.media_type
        if kind == CACHE_CONFIG:
            config = fetch_all(self._repository, manifest.config, CACHE_DOCUMENT_LIMIT)
            yield _join(config, manifest.layers)
        elif kind in (media.OCI_CONFIG, media.DOCKER_CONFIG):
            config = fetch_all(self._repository, manifest.config, CACHE_DOCUMENT_LIMIT)
            yield from inline_documents(ImageConfig.parse(config), manifest.layers)


def inline_documents(config: ImageConfig, layers: tuple[Descriptor, ...]) -> Iterator[bytes]:
    """The cache document in an image configuration, if it has one. Raises ContentError."""
    text = config.extra.get(INLINE_CACHE)
    if text is None or len(config.diff_ids) != len(layers):
        return
    try:
        records = json.loads(base64.b64decode(str(text), validate=True))
    except (ValueError, RecursionError) as error:
        raise ContentError(
            f"the inline cache of the image cannot be read: {error}", code="cache-damaged"
        ) from None
    times = [one.created for one in config.history if not one.empty_layer]
    times += [""] * len(layers)
    listed = [
        {"blob": str(one.digest), "parent": number - 1, "annotations": _noted(one, diff_id, time_)}
        for number, (one, diff_id, time_) in enumerate(
            zip(layers, config.diff_ids, times, strict=False)
        )
    ]
    yield to_bytes({"layers": listed, "records": records})


def _noted(layer: Descriptor, diff_id: Digest | str, created: str) -> dict[str, Any]:
    own = {"mediaType": layer.media_type, "diffID": str(diff_id), "size": layer.size}
    found = {key: text for key, text in layer.annotations.items() if key not in _INTERNAL} | own
    return {**found, "createdAt": created} if created else found


def _join(config: bytes, layers: Iterable[Descriptor]) -> bytes:
    """The document that stands alone: what a manifest says of each layer becomes its annotations.

    Raises ContentError.
    """
    document = from_bytes(config)
    described = {str(one.digest): one for one in layers}
    listed = document.get("layers") or []
    if not isinstance(listed, list):
        raise ContentError("the layers of the cache are not a list", code="cache-damaged")
    for one in listed:
        found = described.get(str(one.get("blob"))) if isinstance(one, dict) else None
        if found is not None and _DIFF_ID in found.annotations:
            created = found.annotations.get(_CREATED, "")
            one["annotations"] = _noted(found, found.annotations[_DIFF_ID], created)
    return to_bytes(document)


def _split(document: bytes) -> tuple[bytes, list[Descriptor]]:
    """The reverse of `_join`: the configuration, and each of its blobs once."""
    found = from_bytes(document)
    layers: dict[str, Descriptor] = {}
    for one in found["layers"]:
        notes: Mapping[str, Any] = one.pop("annotations")
        others = {key: str(text) for key, text in notes.items() if key not in _OWN}
        annotations = {**others, _DIFF_ID: str(notes["diffID"])}
        if notes.get("createdAt"):
            annotations[_CREATED] = str(notes["createdAt"])
        layers[one["blob"]] = Descriptor(
            notes["mediaType"], Digest.parse(one["blob"]), notes["size"], annotations=annotations
        )
    return to_bytes(found), [*layers.values()]
