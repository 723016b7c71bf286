"""Directories that arrive by BuildKit's file synchronisation, as its daemon takes them.

All metadata comes first; the contents of files that are not here with the same size, time and type
are asked for then, by their position. Source: tonistiigi/fsutil, receive.go, diskwriter.go.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from shipline.buildkit.filesync import GO_SPECIAL, GO_TYPES, PacketType
from shipline.buildkit.messages import Packet, Stat
from shipline.grpc.connection import Code, Connection, RpcCall, RpcError
from shipline.grpc.protobuf import decode, encode
from shipline.layer import CAPABILITY

_PATH = "/moby.filesync.v1.FileSync/DiffCopy"
_AT_ONCE = 500  # files that are asked for before the first has come
_MOST = 10_000_000  # files of a directory
_DEVICES = GO_TYPES["block"]  # a bit of both kinds
_NO_FILE = GO_TYPES["dir"] | GO_TYPES["symlink"] | GO_TYPES["fifo"] | _DEVICES


def receive_directory(
    connection: Connection, name: str, root: Path, selection: Mapping[str, Sequence[str]]
) -> None:
    """Make `root` what `selection` (follow and exclude patterns) chooses of the directory `name` of
    the other side; what is there already is not sent again. Raises RpcError, OSError.
    """
    root.mkdir(parents=True, exist_ok=True)
    stream = connection.call(_PATH, {"dir-name": [name], **selection})
    try:
        stats = _stats(stream)
        wanted = _Tree(root, stats).prepare()
        for start in range(0, len(wanted), _AT_ONCE):
            _fetch(stream, root, stats, wanted[start : start + _AT_ONCE])
        _finish(root, stats)
        stream.send(encode(Packet(PacketType.FINISH)))
        stream.end()
        for _ in stream:
            pass
    except BaseException:
        stream.cancel()
        raise


def _stats(stream: RpcCall) -> list[Stat]:
    """The metadata of all files, in order; parents come before what they hold."""
    found: list[Stat] = []
    directories = {""}
    for packet in _packets(stream):
        if packet.type != PacketType.STAT:
            raise RpcError(Code.INTERNAL, f"a packet of type {packet.type} before its metadata")
        if packet.stat is None:
            return found
        path = packet.stat.path
        outside = path in ("", ".", "..") or path.startswith(("/", "../"))
        if outside or path != posixpath.normpath(path):
            raise RpcError(Code.INTERNAL, f"the path of a file is {path!r}")
        if posixpath.dirname(path) not in directories:
            raise RpcError(Code.INTERNAL, f"{path} comes before its directory")
        if packet.stat.mode & GO_TYPES["dir"]:
            directories.add(path)
        found.append(packet.stat)
        if len(found) > _MOST:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"a directory has more than {_MOST} files")
    raise RpcError(Code.UNAVAILABLE, "the metadata of a directory ended early")


def _packets(stream: RpcCall) -> Iterator[Packet]:
    for message in stream:
        packet = decode(Packet, message)
        if packet.type == PacketType.ERROR:
            raise RpcError(Code.UNKNOWN, packet.data.decode(errors="replace"))
        yield packet


class _Tree:
    """The directory as it is to be, apart from the contents of new files."""

    def __init__(self, root: Path, stats: Sequence[Stat]) -> None:
        self._root = root
        self._stats = stats

    def prepare(self) -> list[int]:
        """Remove what is not wanted, make what has no content; the files whose content is needed,
        by position.
        """
        self._remove_others()
        return [number for number, one in enumerate(self._stats) if self._is_missing(one)]

    def _remove_others(self) -> None:
        wanted = {one.path for one in self._stats}
        for place, directories, files in os.walk(self._root, topdown=True):
            below = os.path.relpath(place, self._root)
            prefix = "" if below == "." else f"{below}/"
            for name in files:
                if prefix + name not in wanted:
                    os.unlink(os.path.join(place, name))
            for name in list(directories):
                if prefix + name not in wanted:
                    directories.remove(name)
                    _remove(os.path.join(place, name))

    def _is_missing(self, one: Stat) -> bool:
        path = f"{self._root}/{one.path}"
        with suppress(FileNotFoundError):
            there = os.lstat(path)
            if _is_same(one, there, path):
                return False
            if not (one.mode & GO_TYPES["dir"] and stat.S_ISDIR(there.st_mode)):
                _remove(path)
        if one.mode & GO_TYPES["dir"]:
            with suppress(FileExistsError):
                os.mkdir(path)
        elif one.mode & GO_TYPES["symlink"]:
            os.symlink(one.link_name, path)
        elif one.mode & (GO_TYPES["fifo"] | _DEVICES):
            os.mknod(path, _kind(one.mode), os.makedev(one.device_major, one.device_minor))
        else:
            return not one.link_name
        return False


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _is_same(one: Stat, there: os.stat_result, path: str) -> bool:
    """Whether a file, or a symbolic link, is there already; further names are always recreated."""
    if one.mode & GO_TYPES["symlink"]:
        return stat.S_ISLNK(there.st_mode) and os.readlink(path) == one.link_name
    return (
        not one.mode & _NO_FILE
        and not one.link_name
        and stat.S_ISREG(there.st_mode)
        and (there.st_size, there.st_mtime_ns) == (one.size, one.mod_time)
    )


def _kind(mode: int) -> int:
    if mode & GO_TYPES["fifo"]:
        return stat.S_IFIFO
    is_character = mode & GO_TYPES["char"] == GO_TYPES["char"]
    return stat.S_IFCHR if is_character else stat.S_IFBLK


def _fetch(stream: RpcCall, root: Path, stats: Sequence[Stat], numbers: Sequence[int]) -> None:
    """The contents of some files; each has its name once it is whole."""
    stream.send(*(encode(Packet(PacketType.REQUEST, id=number)) for number in numbers))
    left, fds = {*numbers}, dict[int, int]()
    try:
        for packet in _packets(stream):
            if packet.type != PacketType.DATA or packet.id not in left:
                raise RpcError(Code.INTERNAL, f"file {packet.id} was not asked for")
            path = f"{root}/{stats[packet.id].path}"
            if packet.id not in fds:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                fds[packet.id] = os.open(path, flags, 0o600)
            if packet.data:
                _write(fds[packet.id], packet.data)
                continue
            os.close(fds.pop(packet.id))
            _dress(path, stats[packet.id])
            left.remove(packet.id)
            if not left:
                return
    finally:
        for number, fd in fds.items():  # cut off: it must not count as there
            os.close(fd)
            os.unlink(f"{root}/{stats[number].path}")
    raise RpcError(Code.UNAVAILABLE, "the content of a directory ended early")


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _dress(path: str, one: Stat) -> None:
    """Give a file or directory its mode, capability and time, unless it has them: the builder knows
    unchanged files by the time of their inode.
    """
    there = os.lstat(path)
    special = sum(bit for bit, go in GO_SPECIAL.items() if one.mode & go)
    if stat.S_IMODE(there.st_mode) != (mode := one.mode & 0o777 | special):
        os.chmod(path, mode)
    with suppress(OSError):  # as an ordinary user, or where there are no attributes
        wanted, found = one.xattrs.get(CAPABILITY), _capability(path)
        if wanted is not None and wanted != found:
            os.setxattr(path, CAPABILITY, wanted)
        elif wanted is None and found is not None:
            os.removexattr(path, CAPABILITY)
    if there.st_mtime_ns != one.mod_time:
        os.utime(path, ns=(one.mod_time, one.mod_time))


def _capability(path: str) -> bytes | None:
    try:
        return os.getxattr(path, CAPABILITY)
    except OSError:
        return None


def _finish(root: Path, stats: Sequence[Stat]) -> None:
    """Further names of files, then modes and times: directories last, from below."""
    for one in stats:
        path = f"{root}/{one.path}"
        if one.link_name and not one.mode & _NO_FILE:
            os.link(f"{root}/{one.link_name}", path)
        elif one.mode & GO_TYPES["symlink"]:
            if os.lstat(path).st_mtime_ns != one.mod_time:
                os.utime(path, ns=(one.mod_time, one.mod_time), follow_symlinks=False)
        elif not one.mode & GO_TYPES["dir"]:
            _dress(path, one)
    for one in reversed(stats):
        if one.mode & GO_TYPES["dir"]:
            _dress(f"{root}/{one.path}", one)
