"""What the steps of one build work with, and the one way in which a step makes a layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shipline import dockerfile as df
from shipline.build.cache import Cache, LayerResult
from shipline.build.clock import Clock
from shipline.build.downloads import Downloader
from shipline.build.request import Secret
from shipline.build.snapshots import Snapshot, Snapshots
from shipline.content import LocalIngest, LocalStore
from shipline.layer import (
    Codec,
    Entry,
    Item,
    Prune,
    StatCache,
    TocBuilder,
    Tree,
    stream_layer,
    write_tar,
)
from shipline.oci import Descriptor
from shipline.sandbox import Sandbox, can_mount_files
from shipline.tasks import Limiter, Once

_SECOND = 1_000_000_000  # nanoseconds
_KEPT_XATTRS = ("security.capability",)
_WORTH_KEEPING = 16 << 20  # bytes of files, from which the tar of a layer is kept for later steps


@dataclass(frozen=True, slots=True)
class ContextDirectory:
    """A directory of this machine to build from; `prune` tells what `rules` leave out of it.

    `trees` holds what was scanned: all platforms of a build look at the same files once. `stamp`
    is what sets its files apart in a cache key beside their content.
    """

    name: str
    path: Path
    prune: Prune | None
    cache: StatCache | None
    trees: Once[Tree] = field(default_factory=Once)
    rules: df.IgnoreRules = field(default_factory=df.IgnoreRules)
    stamp: str = ""


Result = Snapshot | ContextDirectory
"""What a vertex comes to."""


class Follower(Protocol):
    def follow(self, ingest: LocalIngest) -> None:
        """Take over the bytes of a layer while they are being made. Returns at once."""

    def made(self, layer: Descriptor) -> None:
        """What the bytes became."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Shared by all steps of a build; every part may be used from any thread."""

    store: LocalStore
    snapshots: Snapshots
    cache: Cache
    codec: Codec
    clock: Clock
    scratch: Path
    state: Path
    contexts: Mapping[str, ContextDirectory]
    secrets: Mapping[str, Secret]
    environment: Mapping[str, str]
    sandbox: Callable[[], Sandbox]
    downloader: Downloader
    making: Once[tuple[LayerResult, bool]]
    running: Limiter
    emptied: Once[None] = field(default_factory=Once)

    def make_layer(
        self, items: Iterable[Item], *, follower: Follower | None, mountable: bool
    ) -> LayerResult:
        """Turn files into a layer in one pass: tar, diff ID, compression, digest, store.

        `follower` gets the bytes while they are made; `mountable` says that a later step will
        look at the files. No items make an empty layer.
        """
        created = self.clock.now()
        toc = TocBuilder()
        tar = write_tar(toc.through(map(self._settle, items)))
        path = self.scratch / f"tar-{os.urandom(6).hex()}"
        with self.store.ingest() as ingest:
            if follower is not None:
                follower.follow(ingest)
            if not mountable:
                layer = stream_layer(tar, ingest, self.codec)
            else:
                with open(path, "wb") as file:
                    layer = stream_layer(tar, ingest, self.codec, also=file.write)
        if follower is not None:
            follower.made(layer.descriptor)
        self.snapshots.save_toc(layer.diff_id, toc.toc())
        if mountable:
            self.snapshots.keep_tar(layer, path)
        return LayerResult(layer, created, self.codec.level)

    def _settle(self, item: Item) -> Item:
        """An item as layers have it: whole seconds, and of the attributes only capabilities."""
        entry, content = item
        mtime_ns = self.clock.clamp_ns(entry.mtime_ns // _SECOND * _SECOND)
        xattrs = entry.xattrs and tuple(one for one in entry.xattrs if one[0] in _KEPT_XATTRS)
        if mtime_ns != entry.mtime_ns or xattrs != entry.xattrs:
            entry = entry._replace(mtime_ns=mtime_ns, xattrs=xattrs)
        return entry, content


def worth_mounting(entries: Iterable[Entry]) -> bool:
    """Whether files can be mounted, and are so big together that it beats unpacking them."""
    return can_mount_files() and sum(entry.size for entry in entries) >= _WORTH_KEEPING


def directories(paths: Iterable[str], clock: Clock, owner: tuple[int, int]) -> Iterator[Item]:
    """New directories as Docker makes them."""
    uid, gid = owner
    for path in paths:
        yield Entry(path, "dir", 0o755, uid, gid, mtime_ns=clock.now_ns()), None
