"""Directories on their way to BuildKit, as its file synchronisation asks for them.

The daemon names a directory and what it needs of it; it is sent the metadata of every such file,
asks for the contents that it lacks, by their position in that list, and gets them. Source:
moby/buildkit, session/filesync; tonistiigi/fsutil, send.go, followlinks.go.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from urllib.parse import unquote

from shipline import dockerfile as df
from shipline.buildkit.messages import Packet, Stat
from shipline.errors import ContentError
from shipline.grpc.connection import Code, Metadata, RpcCall, RpcError
from shipline.grpc.protobuf import decode, encode
from shipline.layer import CAPABILITY, Entry, Item, Prune, Source, scan

_BATCH = 64 << 10  # bytes of small messages that are sent as one
_CHUNK = 512 << 10  # bytes of a file in one message
_MOST_LINKS = 255
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PacketType(IntEnum):
    STAT = 0
    REQUEST = 1
    DATA = 2
    FINISH = 3
    ERROR = 4


GO_TYPES = {"dir": 1 << 31, "symlink": 1 << 27, "block": 1 << 26, "fifo": 1 << 25}
GO_TYPES["char"] = 1 << 26 | 1 << 21
GO_SPECIAL = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


def send_directories(directories: Mapping[str, Path]) -> Callable[[RpcCall], None]:
    """The handler of FileSync/DiffCopy, for directories by the names that builds give them."""

    def answer(stream: RpcCall) -> None:
        name = next(iter(stream.metadata.get("dir-name", ())), "")
        root = directories.get(name)
        if root is None:
            raise RpcError(Code.NOT_FOUND, f"there is no directory {name!r} in this build")
        prune = _selection(root, stream.metadata)
        try:
            _send(stream, list(scan(root, prune=prune).items()))
        except ContentError as error:
            stream.send(encode(Packet(PacketType.ERROR, data=str(error).encode())))
            raise

    return answer


def _send(stream: RpcCall, items: Sequence[Item]) -> None:
    sizes = {entry.path: entry.size for entry, _ in items}
    messages = (encode(Packet(PacketType.STAT, _stat(entry, sizes))) for entry, _ in items)
    _send_batches(stream, messages)
    stream.send(encode(Packet(PacketType.STAT)))
    batch: list[bytes] = []
    for message in stream:
        packet = decode(Packet, message)
        if packet.type == PacketType.REQUEST:
            for part in _content(packet.id, items):
                batch.append(part)
                if len(part) > _BATCH:
                    stream.send(*batch)
                    batch.clear()
        elif packet.type == PacketType.FINISH:
            stream.send(*batch, encode(Packet(PacketType.FINISH)))
            return
        elif packet.type == PacketType.ERROR:
            raise RpcError(Code.UNKNOWN, packet.data.decode(errors="replace"))
        if batch and (not stream.has_more or len(batch) > _BATCH // 1024):
            stream.send(*batch)
            batch.clear()


def _send_batches(stream: RpcCall, messages: Iterator[bytes]) -> None:
    batch: list[bytes] = []
    size = 0
    for message in messages:
        batch.append(message)
        size += len(message)
        if size >= _BATCH:
            stream.send(*batch)
            batch, size = [], 0
    stream.send(*batch)


def _content(number: int, items: Sequence[Item]) -> Iterator[bytes]:
    """The packets with the content of a file, and the one that ends it."""
    if number >= len(items) or not isinstance(source := items[number][1], Source):
        raise RpcError(Code.NOT_FOUND, f"entry {number} has no content to send")
    with open(os.open(source.name, _READ, dir_fd=source.root.fd), "rb") as file:
        while data := file.read(_CHUNK):
            yield encode(Packet(PacketType.DATA, id=number, data=data))
    yield encode(Packet(PacketType.DATA, id=number))


def _stat(entry: Entry, sizes: Mapping[str, int]) -> Stat:
    """Owners are left out, as all files of a context belong to root. A further name of a file has
    its size: without it, the daemon takes the file for changed.
    """
    special = sum(go for bit, go in GO_SPECIAL.items() if entry.mode & bit)
    is_link = entry.kind == "hardlink"
    return Stat(
        path=entry.path,
        mode=entry.mode & 0o777 | special | GO_TYPES.get(entry.kind, 0),
        size=sizes.get(entry.link, 0) if is_link else entry.size or len(os.fsencode(entry.link)),
        mod_time=entry.mtime_ns,
        link_name=entry.link,
        device_major=entry.major,
        device_minor=entry.minor,
        xattrs={name: value for name, value in entry.xattrs if name == CAPABILITY},
    )


def _selection(root: Path, metadata: Metadata) -> Prune | None:
    """What the daemon does not want of a directory."""
    ignored = df.IgnoreRules.of(_values(metadata, "exclude-patterns")).prune()
    followed = _values(metadata, "followpaths")
    included = _values(metadata, "include-patterns")
    unfollowed = follow(root, followed) if followed else None
    unmatched = _including(included) if included else None
    rules = [rule for rule in (ignored, unfollowed, unmatched) if rule is not None]
    if len(rules) < 2:
        return rules[0] if rules else None

    def prune(path: str, is_directory: bool) -> bool | None:
        verdicts = [rule(path, is_directory) for rule in rules]
        return True if True in verdicts else None if None in verdicts else False

    return prune


def _values(metadata: Metadata, name: str) -> list[str]:
    values = metadata.get(name, ())
    encoded = "1" in metadata.get(f"{name}-encoded", ())
    return [unquote(value) for value in values] if encoded else list(values)


def _including(patterns: Sequence[str]) -> Prune:
    rules = df.IgnoreRules.of(patterns)

    def prune(path: str, is_directory: bool) -> bool | None:
        if rules.ignores(path):
            return False
        return None if is_directory and rules.may_match_below(path) else True

    return prune


def follow(root: Path, patterns: Sequence[str]) -> Prune | None:
    """What is not needed for `patterns`, paths that may have wildcards: neither one of them, nor
    below or above one, nor where its symbolic links lead. None if all is needed.
    """
    found = _Followed(root)
    for pattern in patterns:
        found.visit("", _parts(posixpath.normpath(f"/{pattern}")))
    if "" in found.wanted:
        return None
    parents = {parent for path in (*found.wanted, *found.links) for parent in _parents(path)}

    def prune(path: str, is_directory: bool) -> bool:
        if path in found.wanted or path in found.links or path in parents:
            return False
        return not any(parent in found.wanted for parent in _parents(path))

    return prune


class _Followed:
    """Paths that patterns lead to, and the symbolic links on the way."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._links_left = _MOST_LINKS
        self.wanted: set[str] = set()
        self.links: set[str] = set()

    def visit(self, directory: str, parts: list[str]) -> None:
        if not parts:
            self.wanted.add(directory)
            return
        part, *rest = parts
        if not df.has_wildcards(part):
            self._enter(posixpath.join(directory, part), rest)
            return
        matches = df.Wildcard.parse(part).matches
        with suppress(OSError):  # no directory, and nothing to match
            for name in os.listdir(self._root / directory):
                if matches(name):
                    self._enter(posixpath.join(directory, name), rest)

    def _enter(self, path: str, rest: list[str]) -> None:
        try:
            target = os.readlink(self._root / path)
        except OSError:  # no link, or nothing
            self.visit(path, rest)
            return
        self.links.add(path)
        if self._links_left:
            self._links_left -= 1
            way = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target))
            self.visit("", [*_parts(way), *rest])


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path
