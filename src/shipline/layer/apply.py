"""Unpacking a layer into a directory, which no entry can escape."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from shipline.content import Reader
from shipline.errors import ContentError, InvalidArchive
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

_MAX_OPEN = 64  # open directories
_MAX_DEPTH = 256  # nested directories
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafeEntry(ContentError):
    """An entry of an archive points outside the directory it is unpacked to."""

    code = "unsafe-entry"


class DirectoryCache:
    """Opens directories below `root`, one path component at a time.

    A symbolic link is followed as under chroot(2), so it cannot escape. Missing directories are
    created with mode 0755; anything else in their place is replaced.
    """

    def __init__(self, root: OpenDirectory, on_create: Callable[[str], object]) -> None:
        self._root = root
        self._on_create = on_create
        self._open: dict[str, int] = {}

    def directory(self, path: str) -> int:
        """A descriptor of the directory `path`, valid until the next call."""
        fd = self._open.get(path)
        if fd is not None:
            return fd
        if not path:
            return self._root.fd
        if len(self._open) >= _MAX_OPEN:
            self.forget()
        self._open[path] = fd = self._descend(path)
        return fd

    def forget(self, *, keep: int = -1) -> None:
        """Close all but `keep`; call it when a directory was removed."""
        for path, fd in list(self._open.items()):
            if fd != keep:
                os.close(fd)
                del self._open[path]

    def _descend(self, path: str) -> int:
        parent, _, name = path.rpartition("/")
        parent_fd = self.directory(parent)
        try:
            return os.open(name, _OPEN, dir_fd=parent_fd)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=parent_fd)
            self._on_create(path)
            return os.open(name, _OPEN, dir_fd=parent_fd)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        if stat.S_ISLNK(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            resolved = resolve(path, self._lookup)
            if resolved != path:
                return os.dup(self.directory(resolved))
        os.unlink(name, dir_fd=parent_fd)
        os.mkdir(name, 0o755, dir_fd=parent_fd)
        self._on_create(path)
        return os.open(name, _OPEN, dir_fd=parent_fd)

    def _lookup(self, path: str) -> Entry | None:
        return entry_at(self._root, path)


def check_path(path: str) -> None:
    """Raises UnsafeEntry unless `path` is relative, without `..`, and not too deep."""
    if path.count("/") > _MAX_DEPTH:
        raise UnsafeEntry(f"the archive has an entry too deep to unpack: {path!r:.200}")
    if path.startswith("/") or not path or (".." in path and ".." in path.split("/")):
        raise UnsafeEntry(
            f"the archive has an entry outside its root: {path!r:.200}",
            hint="it may be malicious; do not trust its origin",
        )


Whiteouts = Literal["apply", "overlay", "keep"]

_CHUNK = 1 << 20  # bytes
_MAX_ENTRIES, _MAX_BYTES = 10_000_000, 1 << 42
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
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
    max_entries: int = _MAX_ENTRIES,
    max_bytes: int = _MAX_BYTES,
) -> None:
    """Write `items` into `directory`, on top of its content.

    Whiteouts delete files of earlier layers (`apply`), become whiteouts of overlayfs, for a lower
    directory of a mount (`overlay`; `userxattr` for mounts in a user namespace), or are ordinary
    files (`keep`). Modes, times, owners (unless `owner` is false) and extended attributes are set.
    Symbolic links in the tree are followed as under chroot(2).

    Raises UnsafeEntry for a path or hard link outside the directory; ContentError beyond
    `max_entries` or `max_bytes`, for device nodes unless `devices`, for truncated content, and for
    errors of the file system. Files written before the error remain.
    """
    writer = _Writer(OpenDirectory(directory), whiteouts, userxattr, devices, owner)
    entries_left, bytes_left = max_entries, max_bytes
    try:
        for number, (entry, content) in enumerate(items):
            entries_left -= 1
            bytes_left -= entry[5]
            if entries_left < 0 or bytes_left < 0:
                raise ContentError(
                    f"the archive holds more than {max_entries} entries or {max_bytes} bytes",
                    code="archive-too-large",
                )
            if not number % 256:
                check()
            try:
                writer.write(entry, content)
            except OSError as error:
                raise _cannot_unpack(entry, error) from error
        writer.finish()
    finally:
        writer.close()


def _cannot_unpack(entry: Entry, error: OSError) -> ContentError:
    message = f"cannot unpack {entry.path!r:.200}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ContentError(
            message,
            code="disk-full",
            hint="free some space there (`shipline prune` does for the cache), or choose a"
            " directory on a larger disk",
        )
    return ContentError(
        message,
        code="unpack-failed",
        hint="check free space, permissions, and the file names that the file system allows",
    )


class _Writer:
    """The tree being written, and the paths that this layer has added."""

    def __init__(
        self, root: OpenDirectory, whiteouts: Whiteouts, userxattr: bool, devices: bool, owner: bool
    ) -> None:
        self._whiteouts = whiteouts
        self._opaque = attribute("opaque", userxattr=userxattr)
        self._devices = devices
        self._owner = owner
        self._added: set[str] = set()
        self._whited_out: set[str] = set()
        self._directories: dict[str, Entry] = {}
        self._root = root
        self._cache = DirectoryCache(root, self._mark_added)
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
        self._cache.forget()

    def write(self, entry: Entry, content: Content) -> None:
        path = entry[0]
        check_path(path)
        parent, _, name = path.rpartition("/")
        fd = self._cache.directory(parent)
        if self._whiteouts != "keep":
            if parent not in self._added:
                self._mark_added(parent)
            if name.startswith(PREFIX):
                self._whiteout(fd, parent, name)
                return
            self._added.add(path)
        self._write[entry[1]](fd, name, entry, content)

    def _mark_added(self, path: str) -> None:
        """Note that the layer has entries in this directory."""
        while path and path not in self._added:
            self._added.add(path)
            path = path.rpartition("/")[0]

    def finish(self) -> None:
        """Set the metadata of directories, last, because writing into them changes it."""
        for path in sorted(self._directories, reverse=True):
            parent, _, name = path.rpartition("/")
            try:
                fd = os.open(name, _DIRECTORY, dir_fd=self._cache.directory(parent))
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later entry replaced it
            try:
                self._set_metadata(fd, self._directories[path])
            except OSError as error:
                raise _cannot_unpack(self._directories[path], error) from error
            finally:
                os.close(fd)

    def _set_metadata(self, fd: int, entry: Entry) -> None:
        """Set owner, mode, attributes and time, in the order in which none is lost."""
        if self._owner:
            os.fchown(fd, entry[3], entry[4])
        os.fchmod(fd, entry[2])
        if entry[10]:
            self._set_attributes(fd, entry)
        os.utime(fd, ns=(entry[6], entry[6]))

    def _set_attributes(self, fd: int, entry: Entry) -> None:
        for name, value in entry.xattrs:
            if name.startswith(OVERLAY):
                continue  # an image must not forge overlayfs attributes
            try:
                os.setxattr(fd, name, value)
            except OSError:
                if name == CAPABILITY and self._owner:
                    raise

    def _file(self, fd: int, name: str, entry: Entry, content: Content) -> None:
        try:
            new = os.open(name, _CREATE, 0o600, dir_fd=fd)
        except FileExistsError:
            self._remove(fd, name)
            new = os.open(name, _CREATE, 0o600, dir_fd=fd)
        try:
            if entry[5] and _copy(content, new, entry[5]) != entry[5]:
                raise InvalidArchive(f"{entry.path}: the content is not {entry.size} bytes long")
            self._set_metadata(new, entry)
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
        if entry.path in self._whited_out:
            self._make_opaque(entry.path)

    def _symlink(self, fd: int, name: str, entry: Entry, _: Content) -> None:
        try:
            os.symlink(entry.link, name, dir_fd=fd)
        except FileExistsError:
            self._remove(fd, name)
            os.symlink(entry.link, name, dir_fd=fd)
        self._set_metadata_at(fd, name, entry)

    def _hardlink(self, fd: int, name: str, entry: Entry, _: Content) -> None:
        if entry.link == entry.path:
            raise InvalidArchive(f"{entry.path} is a hard link to itself")
        check_path(entry.link)
        parent, _slash, target = entry.link.rpartition("/")
        source = os.dup(self._cache.directory(parent))
        try:
            fd = self._cache.directory(entry.parent)
            try:
                os.stat(target, dir_fd=source, follow_symlinks=False)
            except FileNotFoundError:
                raise InvalidArchive(
                    f"{entry.path!r:.200} is a hard link to {entry.link!r:.200}, which is not"
                    " before it in this archive",
                    hint="a link to a file below, in an image, is not one of the archive: put both"
                    " names into it",
                ) from None
            self._remove(fd, name)
            os.link(target, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(source)
        self._set_link_metadata(fd, name, entry)

    def _special(self, fd: int, name: str, entry: Entry, _: Content) -> None:
        device = os.makedev(entry.major, entry.minor)
        if entry.kind != "fifo":
            if not self._devices:
                raise InvalidArchive(
                    f"{entry.path}: device nodes are not allowed here",
                    hint="unpack as root, or remove the device nodes from the image",
                )
            if self._whiteouts == "overlay" and entry.kind == "char" and not device:
                raise UnsafeEntry(f"{entry.path}: a device 0/0 would be a whiteout of overlayfs")
        self._remove(fd, name)
        os.mknod(name, _TYPES[entry.kind] | 0o600, device, dir_fd=fd)
        self._set_metadata_at(fd, name, entry)

    def _set_link_metadata(self, fd: int, name: str, entry: Entry) -> None:
        """Set the metadata in a hard link's header, as containerd and Docker do.

        A correct owner is left alone: chown(2) clears capabilities.
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

    def _set_metadata_at(self, fd: int, name: str, entry: Entry) -> None:
        if self._owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
        if entry.kind != "symlink":
            os.chmod(name, entry.mode, dir_fd=fd)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=fd, follow_symlinks=False)

    def _remove(self, fd: int, name: str) -> None:
        """Remove whatever has this name."""
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            shutil.rmtree(name, dir_fd=fd)
            self._cache.forget(keep=fd)
        else:
            os.unlink(name, dir_fd=fd)

    def _whiteout(self, fd: int, parent: str, name: str) -> None:
        target_name = name.removeprefix(PREFIX)
        path = f"{parent}/{target_name}" if parent else target_name
        if name == OPAQUE:
            if self._whiteouts == "overlay":
                self._make_opaque(parent)
            else:
                self._delete_children(fd, parent)
        elif name.startswith(RESERVED):
            return
        elif target_name in ("", ".", ".."):
            raise UnsafeEntry(f"the archive has an invalid whiteout: {parent}/{name}")
        elif self._whiteouts == "apply":
            self._delete(fd, target_name, path)
        elif path not in self._added:
            self._whited_out.add(path)
            self._remove(fd, target_name)
            os.mknod(target_name, stat.S_IFCHR, 0, dir_fd=fd)
        elif _is_directory(fd, target_name):
            self._make_opaque(path)

    def _make_opaque(self, path: str) -> None:
        os.setxattr(self._cache.directory(path), self._opaque, b"y")

    def _delete_children(self, fd: int, directory: str) -> None:
        """Delete the entries of earlier layers in a directory."""
        fd = os.dup(fd)
        try:
            for name in os.listdir(fd):
                self._delete(fd, name, f"{directory}/{name}" if directory else name)
        finally:
            os.close(fd)

    def _delete(self, fd: int, name: str, path: str) -> None:
        """Delete the entries of earlier layers at `path`."""
        if path not in self._added:
            self._remove(fd, name)
        elif _is_directory(fd, name):
            self._delete_children(self._cache.directory(path), path)


def _is_directory(fd: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)


def _copy(content: Content, fd: int, size: int) -> int:
    """Write `content`, at most `size` + 1 bytes; returns the number of bytes."""
    if isinstance(content, bytes):
        return _write_all(fd, content[: size + 1])
    if isinstance(content, Source):
        return _copy_file(content, fd, size)
    return 0 if content is None else _copy_reader(content, fd, size)


def _copy_reader(content: Reader, fd: int, size: int) -> int:
    copied = 0
    while copied <= size and (data := content.read(min(_CHUNK, size - copied + 1))):
        copied += _write_all(fd, data)
    return copied


def _copy_file(content: Source, fd: int, size: int) -> int:
    copied = 0
    source = content.root.open(content.name)
    try:
        while copied <= size and (sent := os.sendfile(fd, source, None, size - copied + 1)):
            copied += sent
    finally:
        os.close(source)
    return copied


def _write_all(fd: int, data: bytes) -> int:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])
    return written
