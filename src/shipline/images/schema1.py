"""Images with manifests of Docker's schema 1: read as if they had schema 2, and copied as they
are to registries that take them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from shipline.content import Advance, Fetcher, LocalStore, MemoryStore, Reader, chunks, fetch_all
from shipline.errors import ContentError, NotFound, RegistryError
from shipline.images.copying import Remote, TagMoved, digest_of
from shipline.oci import MANIFEST_LIMIT, Descriptor, Digest, Hasher, Manifest, media, parse_schema1
from shipline.supply import StatementSource

if TYPE_CHECKING:
    from shipline.registry import RemoteRepository

_REFUSED = (400, 404, 405, 406, 415, 422, 500)  # docker-registry 2.8 answers 500
_LAYERS = {"gzip": media.DOCKER_LAYER_GZIP, "uncompressed": media.DOCKER_LAYER}


class Schema1Source:
    """The repository of an image of schema 1, with a configuration made of its manifest."""

    def __init__(self, source: RemoteRepository, root: Descriptor) -> None:
        self.wrapped: StatementSource = source
        self._size = source.blob_size
        self._root = root
        self._raw = fetch_all(source, root, MANIFEST_LIMIT)
        self._image = parse_schema1(self._raw)
        self._documents = MemoryStore()
        self._store: LocalStore | None = None

    @cached_property
    def manifest(self) -> Manifest:
        """The image as it is, its layers with the sizes that the registry tells (0 of those that
        it lacks), and its configuration without diff IDs.
        """
        layers = [self._sized(digest) for digest in self._image.blobs]
        return Manifest(self._raw, self._root.media_type, self._config(()), tuple(layers))

    def _sized(self, digest: Digest) -> Descriptor:
        size = 0
        with suppress(NotFound):
            size = self._size(digest)
        return Descriptor(media.DOCKER_LAYER_GZIP, digest, size)

    def _config(self, diff_ids: Sequence[Digest]) -> Descriptor:
        return self._documents.add(self._image.config(diff_ids), media.DOCKER_CONFIG)

    def copy(
        self, target: Remote, tag: str, *, force: bool = False, advance: Advance | None = None
    ) -> bool | None:
        """Point `tag` to the same bytes: whether it did not before; None if `target` refuses them,
        as most registries do today.
        """
        before = digest_of(target, tag)
        if before == self._root.digest and not force:
            return False
        for digest in dict.fromkeys(digest for digest, _ in self._image.layers):
            target.push(self._sized(digest), self, advance)  # also the empty one, which is named
        try:
            if not target.swap(self._root, self, tag, before):
                raise TagMoved(tag)
        except RegistryError as error:
            if error.status not in _REFUSED:
                raise
            return None
        return True

    def lacking(self, target: Remote) -> tuple[Descriptor, ...]:
        """What a copy moves."""
        return (*(one for one in self.manifest.layers if not target.exists(one)), self._root)

    def converted(self, scratch: Path) -> Descriptor:
        """The manifest of the same image in schema 2, without empty layers; the others are stored
        in the directory `scratch`, and unpacked to learn their diff IDs.
        """
        from shipline.layer import decompress, sniff  # slow to import

        self._store = store = LocalStore(scratch, create=True)
        layers, diff_ids = [], []
        for layer in self.manifest.layers:
            store.push(layer, self.wrapped)
            with store.fetch(layer) as reader:
                compression = sniff(reader.read(512)) or "uncompressed"
            if compression not in _LAYERS:
                raise ContentError(
                    f"{layer.digest} is a layer in {compression}, not gzip",
                    code="layer-unsupported",
                )
            diff_id = Hasher()
            with store.fetch(layer) as reader:
                for data in chunks(decompress(reader, compression)):
                    diff_id.update(data)
            layers.append(Descriptor(_LAYERS[compression], layer.digest, layer.size))
            diff_ids.append(diff_id.digest)
        config = self._config(diff_ids)
        made = Manifest.make(config, layers, media_type=media.DOCKER_MANIFEST)
        return self._documents.add(made.raw, made.media_type)

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        if target == self._root:
            yield io.BytesIO(self._raw)
            return
        places: tuple[MemoryStore | LocalStore, ...]
        places = (self._documents, *filter(None, [self._store]))
        place: Fetcher = next((one for one in places if one.exists(target)), self.wrapped)
        with place.fetch(target) as reader:
            yield reader

    def resolve(self, reference: str) -> Descriptor:
        return self.wrapped.resolve(reference)

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        return self.wrapped.referrers(target, artifact_type)
