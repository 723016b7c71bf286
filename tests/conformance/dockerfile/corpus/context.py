"""Entries made real: a directory to build from, or an archive in it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from corpus.entry import Entry, parse

_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
_TAR_TYPES = {
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "c": tarfile.CHRTYPE,
    "b": tarfile.BLKTYPE,
}


def write(entries: Iterable[Entry], directory: Path) -> None:
    """Create every entry below `directory` with its owner, mode, times and attributes.

    Directories get theirs last, since making a file in them changes their time.
    """
    directory.mkdir(parents=True)
    done: list[Entry] = []
    for entry in entries:
        path = directory / entry.name
        for parent in reversed(path.relative_to(directory).parents):
            if not (directory / parent).is_dir():
                (directory / parent).mkdir()
                done.append(Entry(str(parent), "dir", mode=0o755))
        _create(entry, path, directory)
        done.append(entry)
    for entry in reversed(done):
        if entry.kind != "hardlink":
            _dress(entry, directory / entry.name)


def _create(entry: Entry, path: Path, directory: Path) -> None:
    match entry.kind:
        case "dir":
            path.mkdir(exist_ok=True)
        case "symlink":
            path.symlink_to(entry.link)
        case "hardlink":
            path.hardlink_to(directory / entry.link)
        case "fifo":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, stat.S_IFSOCK)
        case "file":
            path.write_bytes(content(entry))
        case _:
            raise ValueError(f"{entry.name}: a context has no devices")


def _dress(entry: Entry, path: Path) -> None:
    os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind != "symlink":
        path.chmod(entry.mode)
    for name, value in entry.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)


def content(entry: Entry) -> bytes:
    """The bytes of a regular file of the context."""
    return _archive(entry) if entry.archive else entry.data


def _archive(section: Entry) -> bytes:
    """The tar whose entries are the lines of `section`, compressed as it says."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for line in os.fsdecode(section.data).splitlines():
            if line:
                _archive_entry(parse(line), tar)
    return _COMPRESS[section.archive](out.getvalue())


def _archive_entry(entry: Entry, tar: tarfile.TarFile) -> None:
    header = tarfile.TarInfo(entry.name)
    header.type = _TAR_TYPES.get(entry.kind, tarfile.REGTYPE)
    header.mode, header.uid, header.gid = entry.mode, entry.uid, entry.gid
    header.mtime, header.linkname, header.size = entry.mtime, entry.link, len(entry.data)
    header.devmajor, header.devminor = entry.device
    header.pax_headers = {
        f"SCHILY.xattr.{name}": os.fsdecode(value) for name, value in entry.xattrs.items()
    }
    tar.addfile(header, io.BytesIO(entry.data))
