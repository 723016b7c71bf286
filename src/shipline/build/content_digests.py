"""BuildKit's digests of file contents, by which its cache recognises the files of a context.

A file's digest covers mode, size and bytes, with root as its owner; a directory's covers names and
digests of what is in it. No digest covers times. Source: BuildKit, cache/contenthash.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterable

from shipline import dockerfile as df
from shipline.build.graph import key_of
from shipline.build.selecting import ContextDirectory, Selected, select
from shipline.errors import ShiplineError
from shipline.layer import Entry, Source, Tree
from shipline.tasks import Once, check
from shipline.values import replace

_EMPTY = f"sha256:{hashlib.sha256().hexdigest()}"
_FILE, _LINK, _DIRECTORY = "0", "2", "5"  # type flags of tar
_CHUNK = 1 << 20  # bytes


class ReadFiles:
    """The files whose digests were made."""

    def __init__(self) -> None:
        self._read: list[tuple[ContextDirectory, tuple[str, ...], tuple[str, ...], list[Tree]]] = []

    def select(
        self, files: ContextDirectory, sources: tuple[str, ...], excludes: tuple[str, ...] = ()
    ) -> list[Selected]:
        """See `selecting.select`."""
        found = select(files, sources, excludes)
        self._read.append((files, sources, excludes, [one.tree for one in found]))
        return found

    def are_unchanged(self) -> bool:
        """Whether all of them are what they were: names, sizes, owners, modes and times."""
        for files, sources, excludes, trees in self._read:
            try:
                again = select(replace(files, trees=Once[Tree]()), sources, excludes)
            except ShiplineError:
                return False
            if not all(map(Tree.has_stats_of, trees, (one.tree for one in again))):
                return False
            if len(trees) != len(again):
                return False
        return True


def content_digest(files: ContextDirectory, sources: Iterable[str], read: ReadFiles) -> str:
    """The digest of what plain paths select, as BuildKit has it. Raises UsageError, ContentError
    where they cannot be read, and KeyError for files that BuildKit's digest does not tell apart.
    """
    paths = sorted({absolute(source) for source in sources})
    outer = [one for one in paths if not any(_is_below(one, other) for other in paths)]
    return sha256("\0".join(_of_path(read.select(files, (path,)), path) for path in outer))


def _of_path(found: list[Selected], path: str) -> str:
    """Of one path. What a wildcard matches is told apart by the last part of its path alone, which
    suffices where all of it are files of one directory.
    """
    if not df.has_wildcards(path):
        (one,) = found
        return _selected(one)
    if df.has_wildcards(posixpath.dirname(path)):
        raise KeyError(path)
    if any(one.is_directory or one.path != one.written for one in found):
        raise KeyError(path)
    return sha256("\0".join(f"{one.name}{_selected(one)}" for one in found))


def own_digest(
    files: ContextDirectory, sources: tuple[str, ...], excludes: tuple[str, ...], read: ReadFiles
) -> str:
    """The digest of anything that is selected, which only this program knows."""
    found = [
        [one.written, one.pivot, one.is_directory, str(one.tree.digest((0, 0)))]
        for one in read.select(files, sources, excludes)
    ]
    return f"sha256:{key_of('selected files/1', files=found, stamp=files.stamp)}"


def sha256(text: str) -> str:
    """The digest of a text, as text."""
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}"


def absolute(path: str) -> str:
    """A path of a context, from its root."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def _is_below(path: str, other: str) -> bool:
    return path != other and path.startswith(other.rstrip("/") + "/")


def _selected(one: Selected) -> str:
    if not one.is_directory:
        ((entry, content),) = one.items()
        return _digest_of(entry, content)
    own = _EMPTY
    if one.path:
        status = os.stat(one.root / one.path)
        own = _header(status.st_mode & 0o7777, 0, _DIRECTORY, "").hexdigest()
        own = f"sha256:{own}"
    return _directory(own, one)


def _directory(own: str, selected: Selected) -> str:
    """The digest of a directory, from those of its entries, sorted, parents first."""
    stack = [("", hashlib.sha256(f"\0{own}".encode()))]

    def close() -> None:
        path, done = stack.pop()
        name = path.rpartition("/")[2]
        _add(stack[-1][1], name, f"sha256:{done.hexdigest()}")

    for entry, content in selected.items():
        while entry.parent != stack[-1][0]:
            close()
        check()
        if entry.kind == "dir":
            own = f"sha256:{_header(entry.mode, 0, _DIRECTORY, '').hexdigest()}"
            stack.append((entry.path, hashlib.sha256(f"\0{own}".encode())))
        else:
            _add(stack[-1][1], entry.name, _digest_of(entry, content))
    while len(stack) > 1:
        close()
    return f"sha256:{stack[0][1].hexdigest()}"


def _add(directory: hashlib._Hash, name: str, digest: str) -> None:
    directory.update(f"\0{name}{digest}".encode("utf-8", "surrogateescape"))


def _digest_of(entry: Entry, content: object) -> str:
    if entry.kind == "symlink":
        return f"sha256:{_header(0o777, 0, _LINK, entry.link).hexdigest()}"
    if entry.kind != "file" or entry.xattrs:
        raise KeyError(entry.kind)
    assert isinstance(content, Source)
    found = _header(entry.mode, entry.size, _FILE, "")
    with open(content.root.open(content.name), "rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            found.update(data)
    return f"sha256:{found.hexdigest()}"


def _header(mode: int, size: int, kind: str, link: str) -> hashlib._Hash:
    """The hash of a file's metadata: names and values of a tar header (tarsum version 1)."""
    text = (
        f"namemode{mode}uid0gid0size{size}typeflag{kind}linkname{link}unamegnamedevmajor0devminor0"
    )
    return hashlib.sha256(text.encode("utf-8", "surrogateescape"))
