"""What of an archive this process can make real: as root all of it, as an ordinary user less."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shipline.layer import Item
from shipline.sandbox import in_user_namespace, require_ids


def owned(items: Iterable[Item]) -> Iterator[Item]:
    """The items. Raises SandboxError for an owner that this process cannot give to a file."""
    known: set[tuple[int, int]] = set()
    for item in items:
        owner = (item[0].uid, item[0].gid)
        if owner not in known:
            require_ids(uids=owner[:1], gids=owner[1:])
            known.add(owner)
        yield item


def mountable(items: Iterable[Item]) -> Iterable[Item]:
    """The items of a layer for a directory to mount: device nodes stay out in a user namespace.

    Nobody could open them in a step anyway. Raises SandboxError as `owned` does.
    """
    if not in_user_namespace():
        return owned(items)
    return owned(item for item in items if item[0].kind not in ("char", "block"))
