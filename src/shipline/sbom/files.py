"""Which files of a tree say what is installed, and what they say.

Each file is read for itself, so that what one layer says can be kept, whatever it is part of. What
cannot be read is a fact, too: a list of packages that is not whole has to say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shipline.content import CHUNK, Reader
from shipline.layer import Content, Entry, Item
from shipline.sbom import distributions, languages
from shipline.sbom.packages import FileFacts, Unreadable
from shipline.tasks import check
from shipline.values import replace

VERSION = "2"
"""Changes when the same files would give other facts."""

_PROGRAM = 256 << 10  # bytes: no program of Go is smaller
_MIB = 1 << 20
_FILES = 200_000  # that are read, of one tree


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: how it is read, and the most bytes that it may have."""

    read: Callable[[str, bytes], FileFacts]
    limit: int


_GO = Kind(lambda path, content: FileFacts(path, "go"), 0)  # read as a stream
_DPKG = Kind(distributions.read_dpkg, 128 * _MIB)
_APK = Kind(distributions.read_apk, 128 * _MIB)
_RPM = Kind(distributions.read_rpm, 512 * _MIB)
_COPYRIGHT = Kind(distributions.read_copyright, 4 * _MIB)
_RELEASE = Kind(distributions.read_release, 64 << 10)
_NPM = Kind(languages.read_package_json, 4 * _MIB)
_NPM_LOCK = Kind(languages.read_installed_lock, 64 * _MIB)
_NPM_PROJECT = Kind(languages.read_package_lock, 64 * _MIB)
_PYTHON = Kind(languages.read_python, 8 * _MIB)
_PYTHON_PROJECT = Kind(languages.read_requirements, 4 * _MIB)
_JAVA = Kind(languages.read_java, 256 * _MIB)

_RPM_LOG = Kind(distributions.read_rpm_log, 512 * _MIB)
_RPM_NAMES = ("rpmdb.sqlite", "Packages.db", "Packages")
_NOT_INSTALLED = ("/doc/", "/docs/", "/examples/", "/test/", "/tests/", "/fixtures/")


def kind_of(path: str, mode: int, size: int, *, source: bool = False) -> Kind | None:
    """What the file is for this scan; None for nothing. `source` adds the files of projects that
    name what they are built with.
    """
    directory, _, name = path.rpartition("/")
    match name:
        case "status":
            return _DPKG if directory.endswith("lib/dpkg") else None
        case "installed":
            return _APK if directory.endswith("lib/apk/db") else None
        case "copyright":
            return _COPYRIGHT if "share/doc/" in directory else None
        case "os-release":
            return _RELEASE if directory.endswith(("etc", "usr/lib")) else None
        case "package.json":
            return _NPM if _is_package(directory) else None
        case ".package-lock.json":
            return _NPM_LOCK if directory.endswith("node_modules") else None
        case "METADATA":
            return _PYTHON if directory.endswith(".dist-info") else None
        case "PKG-INFO":
            return _PYTHON if directory.endswith((".egg-info", "/EGG-INFO")) else None
        case "package-lock.json" if source and "node_modules" not in directory:
            return _NPM_PROJECT
        case "requirements.txt" if source:
            return _PYTHON_PROJECT
    if directory.endswith(("lib/rpm", "share/rpm", "lib/sysimage/rpm")):
        if name in _RPM_NAMES:
            return _RPM
        return _RPM_LOG if name == "rpmdb.sqlite-wal" and size else None
    if directory.endswith("lib/dpkg/status.d") and not name.endswith(".md5sums"):
        return _DPKG
    if name.endswith((".jar", ".war", ".ear")):
        return _JAVA
    if name.endswith(".egg-info"):
        return _PYTHON
    return _GO if mode & 0o111 and size >= _PROGRAM else None


def _is_package(directory: str) -> bool:
    """Whether a package.json in the directory is that of an installed package, or of a program: in
    node_modules, and where Debian has these, only the directories of packages count.
    """
    for place in ("/node_modules/", "/usr/share/nodejs/"):
        _, inside, rest = f"/{directory}".rpartition(place)
        if inside:
            return rest.count("/") == rest.startswith("@")
    return not any(part in f"/{directory}/" for part in _NOT_INSTALLED)


def read_tree(items: Iterable[Item], *, source: bool = False) -> Iterator[FileFacts]:
    """What the files among `items` say. Hard links are left out: see `linked`."""
    count = 0
    for entry, content in items:
        if entry.kind != "file":
            continue
        kind = kind_of(entry.path, entry.mode, entry.size, source=source)
        if kind is not None:
            check()
            count += 1
            if count > _FILES:
                yield FileFacts(entry.path, "files", problem="there are too many files of packages")
                return
            found = read_file(entry, content, kind)
            if found.packages or found.problem or kind in (_COPYRIGHT, _RELEASE, _NPM_LOCK):
                yield found


def read_file(entry: Entry, content: Content, kind: Kind) -> FileFacts:
    """What one file says."""
    if isinstance(content, bytes | None):
        return _read(entry.path, _Bytes(content or b""), kind)
    if isinstance(content, tuple):
        try:
            with Path(content.root.path, content.name).open("rb") as file:
                return _read(entry.path, file, kind, again=file)
        except OSError as error:
            return FileFacts(entry.path, "files", problem=f"it cannot be read: {error.strerror}")
    return _read(entry.path, content, kind)


def _read(path: str, content: Reader, kind: Kind, *, again: BinaryIO | None = None) -> FileFacts:
    """The facts, with the digests of the file; `again` is the file if it can be read twice: few
    programs are of Go, and the others need no digest.
    """
    sha1, sha256 = hashlib.sha1(usedforsecurity=False), hashlib.sha256()

    def seen(data: bytes) -> None:
        sha1.update(data)
        sha256.update(data)

    if kind is _GO:
        found = languages.read_go(path, content, (lambda data: None) if again else seen)
        if again is not None and found.packages:
            again.seek(0)
            while data := again.read(CHUNK):
                seen(data)
    else:
        data = _whole(content, kind.limit)
        if len(data) > kind.limit:
            problem = f"it is bigger than {kind.limit >> 20} MiB"
            return FileFacts(path, "files", problem=problem)
        seen(data)
        try:
            found = kind.read(path, data)
        except Unreadable as error:
            found = FileFacts(path, "files", problem=str(error))
    return replace(found, sha1=sha1.hexdigest(), sha256=sha256.hexdigest())


def _whole(content: Reader, limit: int) -> bytes:
    parts, size = [], 0
    while size <= limit and (data := content.read(CHUNK)):
        parts.append(data)
        size += len(data)
    return b"".join(parts)


class _Bytes:
    """A reader of bytes."""

    def __init__(self, content: bytes) -> None:
        self._left = content

    def read(self, size: int = -1, /) -> bytes:
        data = self._left if size < 0 else self._left[:size]
        self._left = self._left[len(data) :]
        return data
