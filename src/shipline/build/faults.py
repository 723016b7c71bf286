"""What goes wrong with the state directory: errors of the operating system as errors for people,
damage, and repair.

A full disk or a directory that cannot be written is not a bug, wherever it is noticed.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shipline.errors import ContentError, SandboxError, UsageError
from shipline.events import Step
from shipline.sandbox import remove_tree
from shipline.tasks import directory_lock
from shipline.units import shown_size

_ROOM = 1 << 20  # bytes; with less free space a disk is full
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_CURES = {
    errno.EEXIST: "it has to be a directory: remove what is there",
    errno.ENOTDIR: "it has to be a directory: remove what is there",
    errno.ELOOP: "it has to be a directory: remove the link",
    errno.EACCES: "give it to the user who builds (chown -R, chmod -R u+rwX)",
    errno.EPERM: "make the building user its owner (chown -R), and remove immutable attributes"
    " (chattr -R -i)",
    errno.EROFS: "mount it writable",
    errno.EBUSY: "stop the program that has locked it",
}


@contextmanager
def system_errors(home: Path) -> Iterator[None]:
    """Raises ContentError for a full disk, SandboxError for other errors of the system."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output has gone: the command line handles it
        raise
    except OSError as error:
        where = _place(error)
        if not os.path.isabs(where) or where.startswith("/proc/"):  # relative to a descriptor
            where = f"{home} ({where})" if where else str(home)
        if error.errno in _FULL:
            hint = full_hint(home) or "free some space there"
            raise ContentError(
                f"cannot write to {where}: {_reason(error)}", code="disk-full", hint=hint
            ) from error
        cure = _CURES.get(error.errno or 0)
        hint = f"the state directory is {home}"
        hint = f"{hint}: {cure}, or set SHIPLINE_HOME to another" if cure else hint
        raise SandboxError(
            f"cannot use {where}: {_reason(error)}", code="state-directory", hint=hint
        ) from error


class Damage:
    """Records that files of the state directory were damaged; warns once."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._lock = threading.Lock()
        self.found = False

    def __call__(self, path: Path) -> None:
        with self._lock:
            first, self.found = not self.found, True
        if first:
            self._step.warn(
                f"{path} was damaged and has been removed",
                "it is built or downloaded again; if this repeats, check the disk",
            )


_LAYOUT = {
    "content": "directory",
    "content/blobs": "directory",
    "content/blobs/*": "directory",
    "content/blobs/*/*": "plain file",
    "layers*": "directory",
    "layers*/.locks": "directory",
    "layers*/.locks/*": "file",
    "layers*/[!.]*": "directory",
    "layers*/[!.]*/fs": "directory",
    "layers*/[!.]*/[!f]*": "file",
    "toc": "directory",
    "toc/*": "file",
    "blocks": "directory",
    "blocks/*": "file",
    "stat": "directory",
    "stat/*": "file",
    "git": "directory",
    "git/*[!k]": "directory",
    "git/*.lock": "file",
    "mounts*": "directory",
    "mounts*/*": "directory",
    "mounts*/*/*[!0-9]": "file",
    "mounts*/*/*[0-9]": "directory",
    "tmp": "directory",
    "tmp/*.lock": "file",
    "use.lock": "file",
    "work.lock": "file",
    "cache.db": "file",
    "cache.db-*": "plain file",
}
"""What is in the state directory, parents first; it is described in ARCHITECTURE.md."""


_REPAIRED = ".repaired"


def repair(state: Path, on_damage: Callable[[Path], object], since_ns: int) -> bool:
    """Remove what is not of the kind that its place in the state directory calls for, and give its
    user the permissions that are missing. Returns whether there was anything to do, or was since
    `since_ns` for another build that did it.

    Running builds are not disturbed, and builds repair one after another: what one has just made in
    the place of something wrong, the next one must not take for that. What can neither be removed
    nor moved away stays.
    """
    stamp, repaired = state / _REPAIRED, False
    with suppress(OSError), directory_lock(state):
        if not (repaired := _repair(state, on_damage)):
            return stamp.stat().st_mtime_ns >= since_ns
        stamp.touch()
        os.utime(stamp, ns=(now := time.time_ns(), now))
    return repaired


def _repair(state: Path, on_damage: Callable[[Path], object]) -> bool:
    from glob import glob  # only needed for what is wrong

    repaired = False
    for pattern, kind in _LAYOUT.items():
        for path in [state / name for name in sorted(glob(pattern, root_dir=state))]:
            if _is(path, kind) and os.access(path, _needs(kind)):
                continue
            if not os.path.lexists(path):  # a build that ended has removed it
                continue
            if _is(path, kind) and _open(path, kind):
                repaired = True
            elif _discard(path):
                on_damage(path)
                repaired = True
    return repaired


def _is(path: Path, kind: str) -> bool:
    """Whether `path` is of the kind; a link to it counts, except for a plain file."""
    try:
        mode = (path.lstat() if kind == "plain file" else path.stat()).st_mode
    except OSError:  # a link that leads nowhere
        return False
    return stat.S_ISDIR(mode) if kind == "directory" else stat.S_ISREG(mode)


def _needs(kind: str) -> int:
    if kind == "directory":
        return os.R_OK | os.W_OK | os.X_OK
    return os.R_OK if kind == "plain file" else os.R_OK | os.W_OK


def _open(path: Path, kind: str) -> bool:
    """Give the user of the state directory the missing permissions; returns whether that worked."""
    with suppress(OSError):
        path.chmod(0o700 if kind == "directory" else 0o600)
    return os.access(path, _needs(kind))


def _discard(path: Path) -> bool:
    """Remove `path`, or else move it away; returns whether it is gone."""
    try:
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()
    except OSError:
        with suppress(OSError):
            path.rename(path.with_name(f".unusable-{os.urandom(6).hex()}"))
    return not os.path.lexists(path)


@contextmanager
def output_errors(destination: str) -> Iterator[None]:
    """Raises ContentError for a full disk, UsageError where an output cannot be written otherwise;
    errors of the content get a note.
    """
    try:
        yield
    except ContentError as error:
        error.add_note(f"while writing {destination}")
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        place = _place(error)
        inside = f" ({place})" if place and place != destination else ""
        message = f"cannot write {destination or 'the output'}{inside}: {_reason(error)}"
        if error.errno in _FULL:
            hint = "free some space there, or choose another dest= with --output"
            raise ContentError(message, code="disk-full", hint=hint) from error
        raise UsageError(
            message, code="output-unwritable", hint="choose another dest= with --output"
        ) from error


def full_hint(home: Path) -> str:
    """What to do if the state directory is full; empty if it is not."""
    status = os.statvfs(home)
    names_left = status.f_favail or not status.f_files  # some filesystems do not count them
    if names_left and status.f_bavail * status.f_frsize >= _ROOM:
        return ""
    size = shown_size(status.f_blocks * status.f_frsize)
    return (
        f"SHIPLINE_HOME is full: {home}, on a disk of {size};"
        " free some space (`shipline prune`), or set it to a directory on a larger disk"
    )


def _place(error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
