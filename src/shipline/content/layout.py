"""An OCI image layout: a directory of blobs with an index of tags (image-layout.md)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipline.content.protocols import Fetcher
from shipline.content.store import LocalStore
from shipline.errors import ContentError, NotFound
from shipline.files import open_whole
from shipline.oci import Descriptor, Digest, Index, check_tag, parse_manifest
from shipline.values import replace

_REF_NAME = "org.opencontainers.image.ref.name"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_LIMIT = 16 << 20  # bytes of index.json


class OciLayout(LocalStore):
    """A Repository on the local disk, whose tags are annotations in `index.json`."""

    def __init__(self, root: Path, *, create: bool = False) -> None:
        """Raises NotFound if there is no layout, unless `create` is set."""
        marker = root / "oci-layout"
        if not create and not marker.is_file():
            raise NotFound(f"{root} is not an OCI image layout: it has no oci-layout file")
        super().__init__(root, create=create)
        if not marker.exists():
            with open_whole(marker) as file:
                file.write(_LAYOUT)

    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        return False

    def resolve(self, reference: str) -> Descriptor:
        """By tag or digest; an empty reference names the layout's only image."""
        entries = self.index().manifests
        for entry in entries:
            if reference in (entry.annotations.get(_REF_NAME), str(entry.digest)):
                return entry.plain
        if not reference and len({entry.digest for entry in entries}) == 1:
            return entries[0].plain
        raise NotFound(f"{reference or 'a single image'} is not in {self.root}")

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        check_tag(tag)
        self.push(target, source)
        with self._locked():
            self._name(target, tag)

    def swap(self, target: Descriptor, source: Fetcher, tag: str, before: Digest | None) -> bool:
        """See `Swapper`: other writers of this program wait meanwhile."""
        check_tag(tag)
        self.push(target, source)
        with self._locked():
            named = (one for one in self.index().manifests if one.annotations.get(_REF_NAME) == tag)
            if next((one.digest for one in named), None) != before:
                return False
            self._name(target, tag)
        return True

    def _name(self, target: Descriptor, tag: str) -> None:
        others = [one for one in self.index().manifests if one.annotations.get(_REF_NAME) != tag]
        named = replace(target.plain, annotations={_REF_NAME: tag})
        self._write(Index.make([*others, named]).raw)

    def index(self) -> Index:
        """The parsed index.json. Raises ContentError if it is not an index."""
        path = self.root / "index.json"
        if not path.exists():
            return Index.make([])
        if path.is_symlink() or path.stat().st_size > _LIMIT:
            raise ContentError(f"{path} is a symbolic link, or too large")
        parsed = parse_manifest(path.read_bytes())
        if not isinstance(parsed, Index):
            raise ContentError(f"{path} is not an index")
        return parsed

    def _write(self, raw: bytes) -> None:
        with open_whole(self.root / "index.json") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Locks the layout against other writers of index.json."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
