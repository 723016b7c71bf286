"""Images in directories, as skopeo's `dir:` has them: manifest.json, the manifests of its platforms
and the blobs, each in a file with the name of its digest (containers-transports(5)).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from shipline.content import CHUNK, VerifiedReader
from shipline.errors import ContentError, NotFound
from shipline.files import open_whole, read_bounded, write_whole
from shipline.images.archives import NewArchive
from shipline.images.copying import InvalidPlace
from shipline.oci import MANIFEST_LIMIT, Descriptor, Digest, media, parse_manifest
from shipline.tasks import directory_lock

_VERSION = b"Directory Transport Version: 1.1\n"
_OURS = re.compile(r"[0-9a-f]{64,128}(\.manifest\.json|\.signature-\d+)?|signature-\d+")
_VERSION_FILE, _MANIFEST = "version", "manifest.json"


class ImageDirectory:
    """The one image in a directory. Raises ContentError for what cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _root(self) -> Descriptor:
        try:
            raw = read_bounded(self.path / _MANIFEST, MANIFEST_LIMIT)
        except OSError as error:
            raise _unreadable(self.path / _MANIFEST, error) from None
        return Descriptor.of(raw, parse_manifest(raw).media_type)

    def resolve(self, reference: str) -> Descriptor:
        """The image, whose digest may be given."""
        if reference not in ("", str(self._root.digest)):
            raise NotFound(f"{reference} is not in {self.path}", code="image-not-found")
        return self._root

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        return ()

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        is_root = target.digest == self._root.digest
        path = self.path / (_MANIFEST if is_root else _file_of(target))
        try:
            file = path.open("rb")
        except OSError as error:
            raise _unreadable(path, error) from None
        with file:
            yield VerifiedReader(file, target, str(self.path))


class NewDirectory(NewArchive):
    """The directory that a copy makes: what is pushed is noted, and read when it is written."""

    def write(self, path: Path) -> None:
        """Write the image to `path`, in place of the one that is there: its blobs first, then
        manifest.json; blobs that are not part of it are removed at the end. Raises UsageError for a
        directory of something else.
        """
        root = self._roots[0].digest
        try:
            path.mkdir(parents=True, exist_ok=True)
            with directory_lock(path):  # another copy must not remove what this one writes
                before = _check(path)
                write_whole(path / _VERSION_FILE, _VERSION)
                new = {_VERSION_FILE, _MANIFEST, *self._write_files(path, root)}
                write_whole(path / _MANIFEST, self._documents.blobs[root])
                for name in filter(_OURS.fullmatch, before - new):
                    (path / name).unlink()
        except OSError as error:
            raise ContentError(
                f"cannot write {path}: {error.strerror}", code="output-unwritable"
            ) from error

    def _write_files(self, path: Path, root: Digest) -> Iterator[str]:
        for digest, raw in self._documents.blobs.items():
            if digest != root:
                name = f"{digest.hex}.manifest.json"
                write_whole(path / name, raw)
                yield name
        for target, source in self._blobs.values():
            name = _file_of(target)
            if not _is_there(path / name, target):
                with source.fetch(target) as reader, open_whole(path / name) as file:
                    while data := reader.read(CHUNK):
                        file.write(data)
            yield name


def _unreadable(path: Path, error: OSError) -> ContentError | NotFound:
    kind = NotFound if isinstance(error, FileNotFoundError) else ContentError
    return kind(f"cannot read {path}: {error.strerror}", code="layout-unusable")


def _file_of(target: Descriptor) -> str:
    suffix = ".manifest.json" if target.media_type in media.NAMED else ""
    return f"{target.digest.hex}{suffix}"


def _check(path: Path) -> set[str]:
    """The names of the files in a directory. Raises UsageError for one of something else."""
    names = {one.name for one in path.iterdir()}
    version = b""
    with suppress(OSError):
        version = read_bounded(path / _VERSION_FILE, 100)
    if names and version != _VERSION:
        raise InvalidPlace(
            f"{path} has files, and is not the directory of an image",
            hint="name an empty directory, or one that does not exist",
        )
    return names


def _is_there(path: Path, target: Descriptor) -> bool:
    with suppress(OSError, ContentError), path.open("rb") as file:
        reader = VerifiedReader(file, target, str(path))
        while reader.read(CHUNK):
            pass
        return True
    return False
