"""Tar archives of images that a copy makes: image layouts, and what `docker load` reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shipline.content import (
    Advance,
    Fetcher,
    Ingest,
    LocalStore,
    MemoryStore,
    Reader,
    VerifiedReader,
    fetch_all,
)
from shipline.engines.archives import (
    DOCUMENT_LIMIT,
    DockerArchive,
    LayoutArchive,
    TarArchive,
    blob_path,
    diff_ids_of,
)
from shipline.errors import ContentError, InvalidArchive, NotFound, UsageError
from shipline.layer import Entry, Item
from shipline.oci import (
    IMAGE_NAME,
    LAYOUT_FILE,
    REF_NAME,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Reference,
    media,
    parse_manifest,
)
from shipline.values import replace


class NewArchive:
    """The archive that a copy makes: what is pushed is noted, and read when it is written. `name`
    is that of the image; with `docker`, `docker load` of any version can read it.
    """

    def __init__(self, where: str, *, name: Reference | None = None, docker: bool = False) -> None:
        self._where = where
        self._name = name
        self._docker = docker
        self._documents = MemoryStore()
        self._blobs: dict[Digest, tuple[Descriptor, Fetcher]] = {}
        self._roots: list[Descriptor] = []
        self._advance: Advance | None = None

    def exists(self, target: Descriptor) -> bool:
        return False

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        with self._documents.fetch(target) as reader:
            yield reader

    @contextmanager
    def ingest(self) -> Iterator[Ingest]:
        raise NotImplementedError("an archive is made of content that is complete")
        yield

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        if target.media_type not in media.NAMED:
            if target.urls:
                with source.fetch(target):
                    """It may be elsewhere: raises NotFound."""
            self._blobs.setdefault(target.digest, (target, source))
            if advance is not None:
                advance(target.size)
            return
        self._documents.push(target, source, advance)
        parsed = parse_manifest(self._documents.blobs[target.digest], target.media_type)
        if parsed.subject is not None:
            self._roots.append(target.plain)

    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        return False

    def resolve(self, reference: str) -> Descriptor:
        raise NotFound(f"{reference} is not in {self._where}", code="image-not-found")

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        return ()

    def tags(self) -> Iterator[str]:
        return iter(())

    def delete(self, reference: str) -> None:
        raise NotFound(f"{reference} is not in {self._where}", code="image-not-found")

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        self.push(target, source)
        self._roots.append(replace(target.plain, annotations={REF_NAME: tag}))

    def swap(self, target: Descriptor, source: Fetcher, tag: str, before: Digest | None) -> bool:
        self.push(target, source)
        if self._docker:
            self._check_runnable(target)
        notes = {REF_NAME: tag}
        if self._name is not None:
            notes = {IMAGE_NAME: str(self._name), REF_NAME: self._name.tag}
        self._roots.insert(0, replace(target.plain, annotations=notes))
        return True

    def items(self, opened: Callable[[Descriptor, Fetcher], Reader]) -> Iterator[Item]:
        """The files of the archive, in the order of their names; `opened` opens the blobs."""
        for directory in ("blobs", *(f"blobs/{one}" for one in self._algorithms())):
            yield Entry(directory, "dir", 0o755), None
        for digest in sorted({*self._documents.blobs, *self._blobs}):
            path = f"blobs/{digest.algorithm}/{digest.hex}"
            if digest in self._documents.blobs:
                yield _file(path, self._documents.blobs[digest], 0o444)
            else:
                target, source = self._blobs[digest]
                yield Entry(path, "file", 0o444, size=target.size), opened(target, source)
        yield _file("index.json", Index.make(dict.fromkeys(self._roots)).raw)
        if self._docker:
            yield from self._docker_manifest()
        yield _file("oci-layout", LAYOUT_FILE, 0o444)

    def _algorithms(self) -> list[str]:
        return sorted({one.algorithm for one in (*self._documents.blobs, *self._blobs)})

    def _check_runnable(self, root: Descriptor) -> None:
        """Raises ContentError for what `docker load` refuses."""
        parsed = parse_manifest(self._documents.blobs[root.digest], root.media_type)
        if not isinstance(parsed, Manifest):
            return
        for layer in parsed.layers:
            if layer.digest not in self._blobs:
                raise ContentError(
                    f"{root.digest} has a layer that is only at {', '.join(layer.urls)}",
                    code="layer-foreign",
                    hint="docker loads images with all their layers: copy it to oci: or a registry",
                )
        _, source = self._blobs[parsed.config.digest]
        diff_ids = diff_ids_of(fetch_all(source, parsed.config, DOCUMENT_LIMIT))
        if diff_ids is None or len(diff_ids) != len(parsed.layers):
            raise InvalidArchive(
                f"{root.digest} is not an image that docker can load: its configuration has no"
                " rootfs with the digest of each layer",
                hint="copy it to oci:, oci-archive: or a registry",
            )

    def _docker_manifest(self) -> Iterator[Item]:
        root = self._roots[0]
        parsed = parse_manifest(self._documents.blobs[root.digest], root.media_type)
        if isinstance(parsed, Manifest):
            entry = {
                "Config": blob_path(parsed.config),
                "RepoTags": [self._name.familiar] if self._name is not None else [],
                "Layers": [blob_path(layer) for layer in parsed.layers],
            }
            yield _file("manifest.json", json.dumps([entry]).encode())


def _file(path: str, content: bytes, mode: int = 0o644) -> Item:
    return Entry(path, "file", mode, size=len(content)), content


def open_archive(tar: TarArchive, scratch: Path, *, docker: bool) -> LayoutArchive | DockerArchive:
    """The images in an archive. Raises ContentError; UsageError for the other kind."""
    if docker:
        return DockerArchive(tar, LocalStore(scratch / "layers"))
    if "index.json" not in tar:
        raise UsageError(
            f"{tar.path} is not an archive of an image layout: it has no index.json",
            code="archive-not-layout",
            hint=f"write docker-archive:{tar.path} if `docker save` made it",
        )
    return LayoutArchive(tar)
