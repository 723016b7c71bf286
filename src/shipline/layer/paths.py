"""Paths inside a root, as chroot(2) sees them."""

from __future__ import annotations

from collections.abc import Callable

from shipline.errors import ContentError
from shipline.layer.entry import Entry

_LINKS = 255  # followed in one path, as the path lookups of image tools allow


class SymlinkLoop(ContentError):
    """A path goes through more symbolic links than anyone means."""

    code = "symlink-loop"


def resolve(path: str, lookup: Callable[[str], Entry | None], *, follow_last: bool = True) -> str:
    """The canonical form of `path`: no link, `.` or `..` left, never outside the root.

    `lookup` says what is at a canonical path. Absolute links start at the root, `..` stops there.
    What does not exist is kept as it is named. Raises SymlinkLoop.
    """
    todo = path.split("/")[::-1]
    done = ""
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        step = f"{done}/{part}" if done else part
        entry = lookup(step) if todo or follow_last else None
        if entry is None or entry.kind != "symlink":
            done = step
            continue
        links += 1
        if links > _LINKS:
            raise SymlinkLoop(f"too many symbolic links in {path!r:.200}")
        if entry.link.startswith("/"):
            done = ""
        todo += entry.link.split("/")[::-1]
    return done
