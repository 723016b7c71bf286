"""Images in tar archives: image layouts, and what `docker save` writes.

OCI image specification, image-layout.md; Docker image specification v1.2, "Combined Image JSON +
Filesystem Changeset Format".
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from shipline.content import (
    CHUNK,
    LocalStore,
    MemoryStore,
    Reader,
    VerifiedReader,
    chunks,
    fetch_document,
    find_entry,
    of_type,
    referrers_by_subject,
)
from shipline.errors import ContentError, InvalidArchive, NotFound
from shipline.layer import codec, cut_tar, decompress, sniff, stream_layer
from shipline.oci import (
    IMAGE_NAME,
    REF_NAME,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Reference,
    from_bytes,
    media,
    parse_manifest,
)

DOCUMENT_LIMIT = 16 << 20  # bytes of index.json, manifest.json, or a configuration
_MEMBERS = 1_000_000


class _Member(Struct, frozen=True):
    """Bytes of a file, from `start` on; a Reader once it is opened."""

    start: int
    size: int


class _MemberReader:
    def __init__(self, file: BinaryIO, member: _Member) -> None:
        self._file = file
        self._position, self._end = member.start, member.start + member.size

    def read(self, size: int = -1, /) -> bytes:
        left = self._end - self._position
        data = os.pread(self._file.fileno(), left if size < 0 else min(size, left), self._position)
        self._position += len(data)
        return data

    def close(self) -> None:
        """The archive stays open."""


class TarArchive:
    """The files of an archive by name, read in place. `scratch` is a directory for what a
    compressed one unpacks to. Raises ContentError for what is not an archive, NotFound for a
    missing file.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        try:
            self._file: BinaryIO = path.open("rb", buffering=0)
        except OSError as error:
            kind = NotFound if isinstance(error, FileNotFoundError) else ContentError
            raise kind(f"cannot read {path}: {error.strerror}") from None
        self.path = path
        try:
            if not self._file.seekable():
                self._spool(scratch)
            self._uncompress(scratch)
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                self._members, self._links = _members(tar)
        except (tarfile.TarError, OSError) as error:
            self.close()
            raise InvalidArchive(f"{path} is not a tar archive: {error}") from None
        except BaseException:
            self.close()
            raise

    def _spool(self, scratch: Path) -> None:
        """Standard input and other pipes are read once, into a file."""
        whole = (scratch / "whole.tar").open("w+b", buffering=0)
        with self._file as pipe:
            shutil.copyfileobj(pipe, whole, CHUNK)
        whole.seek(0)
        self._file = whole

    def _uncompress(self, scratch: Path) -> None:
        compression = sniff(os.pread(self._file.fileno(), 512, 0))
        if compression in (None, "uncompressed"):
            return
        plain = (scratch / "plain.tar").open("w+b", buffering=0)
        with self._file as compressed:
            for data in chunks(decompress(compressed, str(compression))):
                plain.write(data)
        plain.seek(0)
        self._file = plain

    def __contains__(self, name: str) -> bool:
        return self._found(name) is not None

    def _found(self, name: str) -> _Member | None:
        return self._members.get(self._links.get(name, name))

    def open(self, name: str) -> tuple[_MemberReader, int]:
        """A reader of a file, and its size in bytes."""
        member = self._found(posixpath.normpath(name))
        if member is None:
            raise NotFound(f"{name} is not in {self.path}", code="image-not-found")
        return _MemberReader(self._file, member), member.size

    def document(self, name: str) -> bytes:
        reader, size = self.open(name)
        if size > DOCUMENT_LIMIT:
            raise InvalidArchive(f"{name} in {self.path} is larger than {DOCUMENT_LIMIT} bytes")
        return reader.read()

    def close(self) -> None:
        self._file.close()


def _members(tar: tarfile.TarFile) -> tuple[dict[str, _Member], dict[str, str]]:
    members: dict[str, _Member] = {}
    links: dict[str, str] = {}
    for number, one in enumerate(tar):
        if number > _MEMBERS:
            raise InvalidArchive(f"an archive of more than {_MEMBERS} files is not one of images")
        name = posixpath.normpath(one.name)
        if one.isreg() and not one.issparse():
            members[name] = _Member(one.offset_data, one.size)
        elif one.issym():  # docker before 25: a layer that occurs twice
            links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), one.linkname))
        elif one.islnk():
            links[name] = posixpath.normpath(one.linkname)
    return members, links


class LayoutArchive:
    """The images of an image layout in an archive."""

    def __init__(self, tar: TarArchive) -> None:
        self._tar = tar

    @cached_property
    def _index(self) -> Index:
        parsed = parse_manifest(self._tar.document("index.json"))
        if not isinstance(parsed, Index):
            raise InvalidArchive(f"index.json in {self._tar.path} is not an index")
        return parsed

    @cached_property
    def _referrers(self) -> dict[Digest, list[Descriptor]]:
        return referrers_by_subject(self, self._index)

    def resolve(self, reference: str) -> Descriptor:
        """By tag, full name or digest; an empty reference names the only image."""
        found = find_entry(self, self._index, reference)
        named = (
            one for one in self._index.manifests if one.annotations.get(IMAGE_NAME) == reference
        )
        found = found or next(named, None)
        if found is None:
            raise NotFound(
                f"{reference or 'a single image'} is not in {self._tar.path}",
                code="image-not-found",
            )
        return found.plain

    def tags(self) -> Iterator[str]:
        """The names in index.json."""
        yield from (one.annotations.get(REF_NAME, "") for one in self._index.manifests)

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        return of_type(self._referrers.get(target.digest, ()), artifact_type)

    def exists(self, target: Descriptor) -> bool:
        return blob_path(target) in self._tar

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        reader, _ = self._tar.open(blob_path(target))
        yield VerifiedReader(reader, target, str(self._tar.path))


def blob_path(target: Descriptor) -> str:
    return f"blobs/{target.digest.algorithm}/{target.digest.hex}"


class DockerArchive:
    """The images in what `docker save` wrote. Their layers are tars, which are compressed, as
    `docker push` does, into `store`; an archive with compressed layers keeps its manifests.
    """

    def __init__(self, tar: TarArchive, store: LocalStore) -> None:
        self._tar = tar
        self._store = store
        self._documents = MemoryStore()
        self._layout = LayoutArchive(tar) if "index.json" in tar else None
        self._entries = self._read_entries() if "manifest.json" in tar else []
        if self._layout is None and not self._entries:
            raise InvalidArchive(
                f"{tar.path} has no images: neither manifest.json nor index.json is in it",
                hint="`docker save` and `--output type=docker` write archives that have",
            )

    def _read_entries(self) -> list[dict[str, Any]]:
        try:
            entries = json.loads(self._tar.document("manifest.json"))
            return [
                {
                    "config": str(one["Config"]),
                    "layers": [str(layer) for layer in one.get("Layers") or ()],
                    "names": {str(Reference.parse(name)) for name in one.get("RepoTags") or ()},
                }
                for one in entries
            ]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InvalidArchive(
                f"{self._tar.path}: manifest.json is not that of `docker save`"
            ) from None

    def resolve(self, reference: str) -> Descriptor:
        """By name with tag, or the digest of the configuration; the only image if it is empty."""
        chosen = [one for one in self._entries if not reference or self._is(one, reference)]
        if self._layout is not None:
            kept = self._compressed(self._layout, reference)
            if kept is not None:
                return kept
        if len(chosen) != 1:
            names = sorted({name for one in self._entries for name in one["names"]})
            raise NotFound(
                f"{reference or 'a single image'} is not in {self._tar.path}",
                code="image-not-found",
                hint=f"it has {', '.join(names)}" if names else "",
            )
        return self._converted(chosen[0])

    def _is(self, entry: dict[str, Any], reference: str) -> bool:
        if not reference.startswith("sha256:"):
            return reference in entry["names"]
        return str(Digest.of(self._tar.document(entry["config"]))) == reference

    def _compressed(self, layout: LayoutArchive, reference: str) -> Descriptor | None:
        """The image with its own manifests, None if one has layers that are not compressed. An
        index lists those that the engine has.
        """
        try:
            root = layout.resolve(reference)
        except NotFound:
            return None
        parsed = fetch_document(layout, root)
        if isinstance(parsed, Manifest):
            return None if _has_plain_layers(parsed) else root
        there = [one for one in parsed.manifests if layout.exists(one)]
        images = [one for one in there if one in parsed.images]
        for one in images:
            image = fetch_document(layout, one)
            if isinstance(image, Manifest) and _has_plain_layers(image):
                return None
        if len(there) == len(parsed.manifests):
            return root
        if len(there) == len(images) == 1:
            return images[0].plain
        fewer = Index.make(there, media_type=parsed.media_type, annotations=parsed.annotations)
        return self._documents.add(fewer.raw, fewer.media_type)

    def _converted(self, entry: dict[str, Any]) -> Descriptor:
        raw = self._tar.document(entry["config"])
        config = self._documents.add(raw, media.OCI_CONFIG)
        diff_ids = diff_ids_of(raw) or []
        layers = []
        if len(diff_ids) != len(entry["layers"]):
            raise InvalidArchive(
                f"{self._tar.path}: the image has {len(entry['layers'])} layers, its configuration"
                f" {len(diff_ids)}"
            )
        for number, name in enumerate(entry["layers"]):
            layer, diff_id = self._layer(name)
            if diff_ids[number] != str(diff_id):
                raise InvalidArchive(
                    f"{self._tar.path}: {name} is not the layer that {config.digest} names"
                )
            layers.append(layer)
        manifest = Manifest.make(config, layers)
        return self._documents.add(manifest.raw, manifest.media_type)

    def _layer(self, name: str) -> tuple[Descriptor, Digest]:
        reader, _ = self._tar.open(name)
        compression = sniff(reader.read(512)) or "uncompressed"
        reader, _ = self._tar.open(name)
        plain = chunks(decompress(reader, compression), CHUNK)
        with self._store.ingest() as ingest:
            layer = stream_layer(cut_tar(plain), ingest, codec("gzip"))
        return layer.descriptor, layer.diff_id

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        if self._layout is None or self._documents.exists(target):
            return ()
        return self._layout.referrers(target, artifact_type)

    def tags(self) -> Iterator[str]:
        """The names in manifest.json, else in index.json."""
        names = [name for one in self._entries for name in sorted(one["names"])]
        if self._layout is not None and not names:
            names = list(self._layout.tags())
        yield from dict.fromkeys(names)

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        places: tuple[MemoryStore | LocalStore | LayoutArchive, ...]
        places = (self._documents, self._store, *filter(None, [self._layout]))
        place = next((one for one in places if one.exists(target)), self._store)
        with place.fetch(target) as reader:
            yield reader


@contextmanager
def saved_image(
    image: Digest, save: Callable[[BinaryIO], object], scratch: Path, store: LocalStore
) -> Iterator[tuple[DockerArchive, Descriptor]]:
    """The image with an ID in the archive that `save` writes. Raises ContentError."""
    path = scratch / "image.tar"
    with path.open("wb") as file:
        save(file)
    with closing(TarArchive(path, scratch)) as tar:
        archive = DockerArchive(tar, store)
        yield archive, archive.resolve(str(image))


def _has_plain_layers(manifest: Manifest) -> bool:
    return any(media.compression(one.media_type) == "uncompressed" for one in manifest.layers)


def diff_ids_of(config: bytes) -> list[Any] | None:
    rootfs = from_bytes(config).get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    return diff_ids if isinstance(diff_ids, list) else None
