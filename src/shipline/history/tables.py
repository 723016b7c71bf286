"""The names of files that steps copied, by the digest of their tree: what a comparison of two keys
needs to name the file that changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from shipline.content import seal, unseal
from shipline.files import replace_file
from shipline.history.recorder import packed, plain

_KIND = b"shipline-files-1\n"
_LIMIT = 50_000  # entries; larger trees have no table
_CONTENT = 8  # bytes of the digest of a file


class FileRow(Struct, frozen=True, array_like=True):
    """A file or directory: mode with type, owner, and what tells its content apart."""

    mode: int
    uid: int
    gid: int
    content: bytes = b""


class FileTables:
    """The tables in `files/` of a state directory."""

    def __init__(self, state: Path) -> None:
        self.root = state / "files"

    def add(
        self,
        digest: str,
        entries: int,
        rows: Callable[[], Iterable[tuple[str, int, int, int, bytes]]],
    ) -> None:
        """Keep the table of a tree with so many entries, unless it is there: paths, modes with
        type, uids, gids and contents. Raises no OSError.
        """
        path = self._path(digest)
        if entries > _LIMIT:
            return
        with suppress(OSError):
            try:
                os.utime(path)
            except FileNotFoundError:
                self._write(path, dict(map(_row, rows())))

    def read(self, digest: str) -> Mapping[str, FileRow] | None:
        """The table of a tree by path, None if it is not kept."""
        try:
            data = unseal(_KIND, self._path(digest).read_bytes())
        except OSError:
            return None
        if data is None:
            return None
        return msgspec.msgpack.decode(plain(bytes(data)), type=dict[str, FileRow])

    def _path(self, digest: str) -> Path:
        return self.root / digest.rpartition(":")[2][:40]

    def _write(self, path: Path, rows: Mapping[str, FileRow]) -> None:
        data = packed(msgspec.msgpack.encode(rows))
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, seal(_KIND, data))


def _row(entry: tuple[str, int, int, int, bytes]) -> tuple[str, FileRow]:
    path, mode, uid, gid, content = entry
    kept = hashlib.sha256(content).digest()[:_CONTENT] if content else b""
    shown = os.fsencode(path).decode("utf-8", "backslashreplace")
    return shown, FileRow(mode, uid, gid, kept)
