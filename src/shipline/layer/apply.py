"""Applying a layer: entries to files, without leaving the directory that they are unpacked to."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from shipline.content import Reader
from shipline.errors import ContentError
from shipline.layer.entry import (
    CAPABILITY,
    OPAQUE,
    OVERLAY,
    PREFIX,
    RESERVED,
    Content,
    Entry,
    Item,
    OpenDirectory,
    Source,
    attribute,
    entry_at,
    resolve,
)
from shipline.tasks import check

_MOST = 64  # open directories
_DEEPEST = 256  # directories in each other
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafeEntry(ContentError):
    """An entry of an archive points out of the tree that it is unpacked to."""

    code = "unsafe-entry"


class Places:
    """Opens directories below `root` by their paths, each step alone and without links.

    A link on the way is followed as chroot(2) would, so it cannot lead out. What is missing is
    made, mode 0755; what is no directory is replaced by one.
    """

    def __init__(self, root: OpenDirectory, made: Callable[[str], object]) -> None:
        self._root = root
        self._made = made
        self._open: dict[str, int] = {}

    def directory(self, path: str) -> int:
        """A descriptor of the directory `path`, good until the next call."""
        fd = self._open.get(path)
        if fd is not None:
            return fd
        if not path:
            return self._root.fd
        if len(self._open) >= _MOST:
            self.forget()
        self._open[path] = fd = self._descend(path)
        return fd

    def forget(self, *, keep: int = -1) -> None:
        """Close all but `keep`; to be called when a directory was removed."""
        for path, fd in list(self._open.items()):
            if fd != keep:
                os.close(fd)
                del self._open[path]

    def _descend(self, path: str) -> int:
        parent, _, name = path.rpartition("/")
        above = self.directory(parent)
        try:
            return os.open(name, _OPEN, dir_fd=above)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=above)
            self._made(path)
            return os.open(name, _OPEN, dir_fd=above)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            place = resolve(path, self._lookup)
            if place != path:
                return os.dup(self.directory(place))
        os.unlink(name, dir_fd=above)
        os.mkdir(name, 0o755, dir_fd=above)
        self._made(path)
        return os.open(name, _OPEN, dir_fd=above)

    def _lookup(self, path: str) -> Entry | None:
        return entry_at(self._root, path)


def check_path(path: str) -> None:
    """Raises UnsafeEntry unless `path` is relative, goes down only, and not absurdly far."""
    if path.count("/") > _DEEPEST:
        raise UnsafeEntry(f"the archive has an entry too deep to unpack: {path!r:.200}")
    if path.startswith("/") or not path or (".." in path and ".." in path.split("/")):
        raise UnsafeEntry(
            f"the archive has an entry outside of its root: {path!r:.200}",
            hint="it was made to overwrite other files; do not trust where it came from",
        )


Whiteouts = Literal["apply", "overlay", "keep"]

_PIECE = 1 << 20  # bytes
_ENTRIES, _BYTES = 10_000_000, 1 << 42
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TYPES = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO}


def unpack(
    items: Iterable[Item],
    directory: Path,
    *,
    whiteouts: Whiteouts,
    userxattr: bool = False,
    devices: bool = True,
    owner: bool = True,
    max_entries: int = _ENTRIES,
    max_bytes: int = _BYTES,
) -> None:
    """Write `items` into `directory`, over what is there already.

    Whiteouts either delete what earlier layers left (`apply`), or become those of overlayfs so
    that the directory can be a lower one of a mount, with `userxattr` one in a user namespace
    (`overlay`), or are files like others (`keep`). Modes, times, owners (unless `owner` is false)
    and extended attributes are set. Links in the tree are followed as chroot(2) would.

    Raises UnsafeEntry for a path or hard link out of the directory, ContentError beyond
    `max_entries` or `max_bytes`, for device nodes where `devices` is false, for content that is
    cut off, and for what the file system refuses. Whole files that were written before remain.
    """
    writer = _Writer(OpenDirectory(directory), whiteouts, userxattr, devices, owner)
    left_entries, left_bytes = max_entries, max_bytes
    try:
        for number, (entry, content) in enumerate(items):
            left_entries -= 1
            left_bytes -= entry[5]
            if left_entries < 0 or left_bytes < 0:
                raise ContentError(
                    f"the archive holds more than {max_entries} entries or {max_bytes} bytes"
                )
            if not number % 256:
                check()
            try:
                writer.write(entry, content)
            except OSError as error:
                raise _refused(entry, error) from error
        writer.finish()
    finally:
        writer.close()


def _refused(entry: Entry, error: OSError) -> ContentError:
    return ContentError(
        f"cannot unpack {entry.path!r:.200}: {error.strerror}",
        hint="space, permissions and file names that the file system allows are needed",
    )


class _Writer:
    """The tree being written, and what this layer has put into it."""

    def __init__(
        self,
        root: OpenDirectory,
        whiteouts: Whiteouts,
        userxattr: bool,
        devices: bool,
        owner: bool,
    ) -> None:
        self._whiteouts = whiteouts
        self._opaque = attribute("opaque", userxattr=userxattr)
        self._devices = devices
        self._owner = owner
        self._made: set[str] = set()
        self._gone: set[str] = set()
        self._directories: dict[str, Entry] = {}
        self._root = root
        self._places = Places(root, self._touch)
        self._write = {
            "file": self._file,
            "dir": self._directory,
            "symlink": self._symlink,
            "hardlink": self._hardlink,
            "char": self._special,
            "block": self._special,
            "fifo": self._special,
        }

    def close(self) -> None:
        self._places.forget()

    def write(self, entry: Entry, content: Content) -> None:
        path = entry[0]
        check_path(path)
        parent, _, name = path.rpartition("/")
        fd = self._places.directory(parent)
        if self._whiteouts != "keep":
            if parent not in self._made:
                self._touch(parent)
            if name.startswith(PREFIX):
                self._whiteout(fd, parent, name)
                return
            self._made.add(path)
        self._write[entry[1]](fd, name, entry, content)

    def _touch(self, path: str) -> None:
        """Note that the layer has something in this directory."""
        while path and path not in self._made:
            self._made.add(path)
            path = path.rpartition("/")[0]

    def finish(self) -> None:
        """Give directories their metadata, now that nothing is written into them any more."""
        for path in sorted(self._directories, reverse=True):
            parent, _, name = path.rpartition("/")
            try:
                fd = os.open(name, _DIRECTORY, dir_fd=self._places.directory(parent))
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later entry replaced it
            try:
                self._dress(fd, self._directories[path])
            except OSError as error:
                raise _refused(self._directories[path], error) from error
            finally:
                os.close(fd)

    def _dress(self, fd: int, entry: Entry) -> None:
        """Owner, mode, attributes and time of an open file, in the order that loses none."""
        if self._owner:
            os.fchown(fd, entry[3], entry[4])
        os.fchmod(fd, entry[2])
        if entry[10]:
            self._set_attributes(fd, entry)
        os.utime(fd, ns=(entry[6], entry[6]))

    def _set_attributes(self, fd: int, entry: Entry) -> None:
        for name, value in entry.xattrs:
            if name.startswith(OVERLAY):
                continue  # an image must not forge what overlayfs tells itself
            try:
                os.setxattr(fd, name, value)
            except OSError:
                if name == CAPABILITY and self._owner:
                    raise

    def _file(self, fd: int, name: str, entry: Entry, content: Content) -> None:
        try:
            new = os.open(name, _NEW, 0o600, dir_fd=fd)
        except FileExistsError:
            self._remove(fd, name)
            new = os.open(name, _NEW, 0o600, dir_fd=fd)
        try:
            if entry[5] and _copy(content, new, entry[5]) != entry[5]:
                raise ContentError(f"{entry.path}: its content is not {entry.size} bytes long")
            self._dress(new, entry)
        except BaseException:
            os.unlink(name, dir_fd=fd)
            raise
        finally:
            os.close(new)

    def _directory(self, fd: int, name: str, entry: Entry, _: Content) -> None:
        self._directories[entry.path] = entry
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except FileExistsError:
            if _is_directory(fd, name):
                return
            self._remove(fd, name)
            os.mkdir(name, 0o700, dir_fd=fd)
        if entry.path in self._gone:
            self._make_opaque(entry.path)

    def _symlink(self, fd: int, name: str, entry: Entry, _: Content) -> None:
        try:
            os.symlink(entry.link, name, dir_fd=fd)
        except FileExistsError:
            self._remove(fd, name)
            os.symlink(entry.link, name, dir_fd=fd)
        self._dress_name(fd, name, entry)

    def _hardlink(self, fd: int, name: str, entry: Entry, _: Content) -> None:
        if entry.link == entry.path:
            return
        check_path(entry.link)
        parent, _slash, target = entry.link.rpartition("/")
        source = os.dup(self._places.directory(parent))
        try:
            fd = self._places.directory(entry.parent)
            os.stat(target, dir_fd=source, follow_symlinks=False)
            self._remove(fd, name)
            os.link(target, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(source)
        self._dress_link(fd, name, entry)

    def _special(self, fd: int, name: str, entry: Entry, _: Content) -> None:
        device = os.makedev(entry.major, entry.minor)
        if entry.kind != "fifo":
            if not self._devices:
                raise ContentError(
                    f"{entry.path}: device nodes are not allowed here",
                    hint="unpack as root, or leave the device nodes out of the image",
                )
            if self._whiteouts == "overlay" and entry.kind == "char" and not device:
                raise UnsafeEntry(f"{entry.path}: a device 0/0 would hide a file of other layers")
        self._remove(fd, name)
        os.mknod(name, _TYPES[entry.kind] | 0o600, device, dir_fd=fd)
        self._dress_name(fd, name, entry)

    def _dress_link(self, fd: int, name: str, entry: Entry) -> None:
        """Give a file what the header of a further name says, as containerd and Docker do.

        An owner that is right stays untouched: chown(2) takes capabilities away.
        """
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return
        file = os.open(name, _READ, dir_fd=fd)
        try:
            if self._owner and (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
                os.fchown(file, entry.uid, entry.gid)
            os.fchmod(file, entry.mode)
            self._set_attributes(file, entry)
            os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(file)

    def _dress_name(self, fd: int, name: str, entry: Entry) -> None:
        if self._owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
        if entry.kind != "symlink":
            os.chmod(name, entry.mode, dir_fd=fd)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=fd, follow_symlinks=False)

    def _remove(self, fd: int, name: str) -> None:
        """Remove whatever has this name, to make room."""
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            shutil.rmtree(name, dir_fd=fd)
            self._places.forget(keep=fd)
        else:
            os.unlink(name, dir_fd=fd)

    def _whiteout(self, fd: int, parent: str, name: str) -> None:
        hidden = name.removeprefix(PREFIX)
        path = f"{parent}/{hidden}" if parent else hidden
        if name == OPAQUE:
            if self._whiteouts == "overlay":
                self._make_opaque(parent)
            else:
                self._empty(fd, parent)
        elif name.startswith(RESERVED):
            return
        elif hidden in ("", ".", ".."):
            raise UnsafeEntry(f"the archive hides no name: {parent}/{name}")
        elif self._whiteouts == "apply":
            self._delete(fd, hidden, path)
        elif path not in self._made:
            self._gone.add(path)
            self._remove(fd, hidden)
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=fd)
        elif _is_directory(fd, hidden):
            self._make_opaque(path)

    def _make_opaque(self, path: str) -> None:
        os.setxattr(self._places.directory(path), self._opaque, b"y")

    def _empty(self, fd: int, directory: str) -> None:
        """Remove what earlier layers have in a directory."""
        fd = os.dup(fd)
        try:
            for name in os.listdir(fd):
                self._delete(fd, name, f"{directory}/{name}" if directory else name)
        finally:
            os.close(fd)

    def _delete(self, fd: int, name: str, path: str) -> None:
        """Remove what earlier layers have at `path`."""
        if path not in self._made:
            self._remove(fd, name)
        elif _is_directory(fd, name):
            self._empty(self._places.directory(path), path)


def _is_directory(fd: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)


def _copy(content: Content, fd: int, size: int) -> int:
    """Write `content`, at most one byte more than `size`, and say how much it was."""
    if isinstance(content, bytes):
        return _write_all(fd, content[: size + 1])
    if isinstance(content, Source):
        return _copy_file(content, fd, size)
    return 0 if content is None else _copy_reader(content, fd, size)


def _copy_reader(content: Reader, fd: int, size: int) -> int:
    copied = 0
    while copied <= size and (data := content.read(min(_PIECE, size - copied + 1))):
        copied += _write_all(fd, data)
    return copied


def _copy_file(content: Source, fd: int, size: int) -> int:
    copied = 0
    source = os.open(content.name, _READ, dir_fd=content.root.fd)
    try:
        while copied <= size and (moved := os.sendfile(fd, source, None, size - copied + 1)):
            copied += moved
    finally:
        os.close(source)
    return copied


def _write_all(fd: int, data: bytes) -> int:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])
    return written
