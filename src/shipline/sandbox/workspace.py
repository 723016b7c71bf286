"""Scratch directories: one per build, locked while the build runs, removed if it was killed.

`<state>/tmp/<pid>-<random>/` with `<state>/tmp/<pid>-<random>.lock` beside it. The kernel releases
a flock(2) when its process dies for any reason: a directory whose lock is free has no owner.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipline.tasks import lock

_SUFFIX = ".lock"


@contextmanager
def open_workspace(state: Path) -> Iterator[Path]:
    """A scratch directory under `state` for this block; those of dead builds are removed first.

    Raises OSError when the state directory cannot be written.
    """
    (state / "tmp").mkdir(parents=True, exist_ok=True, mode=0o711)
    remove_stale(state)
    scratch, lock = _claimed(state / "tmp")
    try:
        yield scratch
    finally:
        _remove(scratch)
        os.close(lock)


def remove_stale(state: Path) -> None:
    """Remove the scratch directories whose builds are dead."""
    places = state / "tmp"
    if not places.is_dir():
        return
    for lock_file in sorted(places.glob("*" + _SUFFIX)):
        try:
            lock = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # another build removes it, too
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(lock_file.with_suffix(""))
        except BlockingIOError:  # alive
            continue
        finally:
            os.close(lock)


def remove_tree(path: Path) -> None:
    """Remove a tree if it exists, including directories of mode 000, which overlayfs creates.

    Mounts below `path` are unmounted first: what they show is not ours to remove.
    """
    _unmount_below(path)
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except PermissionError:
        _unlock_directories(path)
        shutil.rmtree(path)


def _unlock_directories(path: Path) -> None:
    os.chmod(path, 0o700)
    for base, directories, _ in os.walk(path):
        for name in directories:
            directory = os.path.join(base, name)
            if not os.path.islink(directory):
                os.chmod(directory, 0o700)


def _unmount_below(path: Path) -> None:
    inside = f"{path.resolve()}/"
    lines = Path("/proc/thread-self/mountinfo").read_text().splitlines()
    for target in reversed([_unescaped(line.split()[4]) for line in lines]):
        if target.startswith(inside):
            from shipline.sandbox.mounts import unmount  # slow to import

            unmount(Path(target))


def _unescaped(text: str) -> str:
    """Undo the octal escapes of proc_pid_mountinfo(5)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _claimed(places: Path) -> tuple[Path, int]:
    while True:
        scratch = places / f"{os.getpid()}-{os.urandom(6).hex()}"
        lock_file = scratch.with_suffix(_SUFFIX)
        held = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        lock(held)
        if lock_file.exists():  # not removed by another build between the two calls above
            scratch.mkdir(mode=0o700)  # other users must not find setuid programs of steps
            return scratch, held
        os.close(held)


def _remove(scratch: Path) -> None:
    """The tree first: while the lock file exists, a failed removal is tried again."""
    remove_tree(scratch)
    scratch.with_suffix(_SUFFIX).unlink(missing_ok=True)
