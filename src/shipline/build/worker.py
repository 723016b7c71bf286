"""How steps make layers: what all steps of a build share, and the options of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from shipline.build.block_indexes import BlockIndexes
from shipline.build.cache import Cache, LayerResult
from shipline.build.clock import Clock
from shipline.build.selecting import ContextDirectory
from shipline.build.snapshots import Snapshot, Snapshots
from shipline.content import LocalIngest, LocalStore
from shipline.events import Step
from shipline.history import FileTables
from shipline.layer import (
    BlockIndex,
    Codec,
    Contents,
    Extent,
    Item,
    Layer,
    TocBuilder,
    is_changed_little,
    stream_blocks,
    stream_changed,
    stream_layer,
    to_windows,
    write_tar,
)
from shipline.oci import Descriptor
from shipline.tasks import TaskGroup
from shipline.values import replace

_SECOND = 1_000_000_000  # nanoseconds
_KEPT_XATTRS = ("security.capability",)

Source = Snapshot | ContextDirectory
"""What a step builds on or copies from."""


class Follower(Protocol):
    def follow(self, ingest: LocalIngest) -> None:
        """Take over the bytes of a layer while they are being made. Returns at once."""

    def completed(self, layer: Descriptor) -> None:
        """The layer is complete."""


class FollowerGroup:
    """Several followers as one."""

    def __init__(self, followers: Iterable[Follower]) -> None:
        self._followers = tuple(followers)

    def __bool__(self) -> bool:
        return bool(self._followers)

    def follow(self, ingest: LocalIngest) -> None:
        for one in self._followers:
            one.follow(ingest)

    def completed(self, layer: Descriptor) -> None:
        for one in self._followers:
            one.completed(layer)


class StepOptions(Struct, frozen=True):
    """Options of one step: `step` reports its progress, `follower` gets the bytes of its layer,
    `mountable` keeps them for later steps that need its files, `fresh` forbids cached results.
    `origin` is what messages call the stage or image that it copies from. Layers with the same
    `index_key` are likely to have blocks in common. `on_start` is called when a large layer that
    later steps mount is really made. With `windows` the layer is one of Windows.
    """

    step: Step
    follower: Follower | None = None
    mountable: bool = False
    fresh: bool = False
    origin: str = ""
    index_key: str = ""
    windows: bool = False
    on_start: Callable[[], object] = lambda: None


class Worker(Struct, frozen=True):
    """Content, the cache of results, and `make_layer`, the only way in which files become a layer.

    Shared by all steps of a build; every part may be used from any thread.
    """

    store: LocalStore
    snapshots: Snapshots
    cache: Cache
    codec: Codec
    clock: Clock
    scratch: Path
    indexes: BlockIndexes
    tables: FileTables

    def temporary(self, name: str) -> Path:
        """A new path in the scratch directory, which vanishes with the build."""
        return self.scratch / f"{name}-{os.urandom(6).hex()}"

    def make_layer(
        self,
        items: Iterable[Item],
        options: StepOptions,
        *,
        contents: Contents | None = None,
        beside: Callable[[], object] = lambda: None,
    ) -> LayerResult:
        """Turn files into a layer in one pass: tar, diff ID, compression, digest, store.

        No items make an empty layer. With their `contents`, items may be made while others are
        hashed. `beside` is called when all files have been read, while other
        threads hash, or another process makes what later steps mount.
        """
        created = Clock().now()
        toc = TocBuilder()
        if contents is None:
            items = list(items)
            contents = Contents.of(items)
        normalized = toc.through(map(self._normalized, items))
        if options.windows:
            normalized = to_windows(normalized)

        @cache
        def dumped() -> bytes:
            beside()
            return toc.toc().dump()

        follower, path = options.follower, self.temporary("tar")
        key, codec, base = options.index_key, self.codec, self.temporary("base")
        indexed = self.indexes.open(key, codec, fresh=options.fresh, base=base)
        with indexed as index, self.store.ingest() as ingest:
            if follower is not None:
                follower.follow(ingest)
            extents: Sequence[Extent] = (Extent(1, 0, 0),)
            if options.mountable and index is not None and is_changed_little(contents, index):
                layer, extents = stream_changed(
                    normalized, ingest, codec, index, path, share=base.exists(), beside=dumped
                )
            else:
                tar = path if options.mountable else None
                layer = self._stream(normalized, contents, ingest, index, tar)
            if index is not None:
                self.indexes.save(key, codec, layer, index)
        layer = replace(layer, windows=options.windows)
        if follower is not None:
            follower.completed(layer.descriptor)
        with TaskGroup() as group:
            if options.mountable and extents:
                group.start(self.snapshots.keep_tar, layer, path, extents, base)
            self.snapshots.save_toc(layer, dumped())
        return LayerResult(layer, created, self.codec.level)

    def _stream(
        self,
        items: Iterable[Item],
        contents: Contents,
        ingest: LocalIngest,
        index: BlockIndex | None,
        tar: Path | None,
    ) -> Layer:
        """The layer of all `items`; its tar also goes to the new file `tar`, if any."""
        with nullcontext() if tar is None else open(tar, "wb") as file:
            if index is None:
                also = None if file is None else file.write
                return stream_layer(write_tar(items), ingest, self.codec, also=also)
            number = -1 if file is None else file.fileno()
            return stream_blocks(items, ingest, self.codec, index, number, contents=contents)

    def _normalized(self, item: Item) -> Item:
        """The item for a layer: its time in whole seconds, without attributes but capabilities."""
        entry, content = item
        mtime_ns = self.clock.clamp_ns(entry[6] // _SECOND * _SECOND)
        xattrs = entry[10] and tuple(one for one in entry[10] if one[0] in _KEPT_XATTRS)
        if mtime_ns == entry[6] and xattrs == entry[10]:
            return item
        return entry._replace(mtime_ns=mtime_ns, xattrs=xattrs), content
