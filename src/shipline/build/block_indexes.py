"""Indexes of compressed blocks: the next layer of the same instruction takes over what is equal.

blocks/<key of the instruction>  which blob its last layer is, and where in it each block is

The blob stays beside the files of the layer, which is the price: only big layers have an index.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from shipline.content import LocalStore, read_file, seal, unseal
from shipline.layer import BlockIndex, Codec
from shipline.oci import Digest

_KIND = b"shipline-blocks-1\n"
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
PLACE = "blocks"
WORTH_INDEXING = 64 << 20  # bytes of files; compressing less takes less than 0.1 s


class BlockIndexes(Struct, frozen=True):
    """The indexes in a state directory, of the blobs in `store`; several builds may share them."""

    state: Path
    store: LocalStore
    scratch: Path

    @contextmanager
    def open(self, key: str, codec: Codec, *, fresh: bool) -> Iterator[BlockIndex | None]:
        """An index for a new layer, which knows the last one with the same `key` and `codec`;
        `fresh` knows none. None without a key, and for a codec that has no blocks.
        """
        if not key or not codec.blocks_id:
            yield None
            return
        form, digest, rows = ("", "", b"") if fresh else _read(self.state / PLACE / key)
        blob = -1
        if form == codec.blocks_id and rows:
            with suppress(OSError):
                blob = os.open(self.store.path(Digest.parse(digest)), _READ)
        try:
            yield BlockIndex() if blob < 0 else BlockIndex(rows, blob)
        finally:
            if blob >= 0:
                os.close(blob)

    def save(self, key: str, codec: Codec, digest: Digest, index: BlockIndex) -> None:
        """Keep the index of a new layer, whose blob has the `digest`."""
        new = self.scratch / f"blocks-{os.urandom(6).hex()}"
        record = (codec.blocks_id, str(digest), index.dump())
        new.write_bytes(seal(_KIND, marshal.dumps(record, 4)))
        (self.state / PLACE).mkdir(exist_ok=True)
        os.rename(new, self.state / PLACE / key)


def indexed_blobs(state: Path) -> Iterator[Digest]:
    """The blobs that an index refers to."""
    for path in (state / PLACE).glob("*"):
        _, digest, rows = _read(path)
        if rows:
            yield Digest.parse(digest)


def _read(path: Path) -> tuple[str, str, bytes]:
    """The form, blob and rows of an index; empty without one, and for one that is damaged."""
    with suppress(OSError):
        if (record := unseal(_KIND, read_file(path))) is not None:
            form, digest, rows = marshal.loads(record)
            return form, digest, rows
    return "", "", b""
