"""Indexes of compressed blocks: the next layer of the same instruction takes over what is equal.

blocks/<key of the instruction>  which blob its last layer is, and where in it each block is

The blob stays beside the files of the layer, which is the price: only big layers have an index.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from shipline.build.layer_files import LayerFiles, open_file
from shipline.content import LocalStore, read_file, seal, unseal
from shipline.layer import Codec, Layer
from shipline.oci import Digest

if TYPE_CHECKING:
    from shipline.layer import BlockIndex

_KIND = b"shipline-blocks-3\n"
PLACE = "blocks"
WORTH_INDEXING = 64 << 20  # bytes of files; compressing less takes less than 0.1 s


class _Record(Struct, frozen=True):
    form: str
    blob: Digest
    diff_id: Digest
    rows: bytes


class BlockIndexes(Struct, frozen=True):
    """The indexes in a state directory, of the blobs in `store` and the tars in `files`; several
    builds may share them. `on_replaced` is called when a blob has lost its index to a newer one.
    """

    state: Path
    store: LocalStore
    files: LayerFiles
    scratch: Path
    on_replaced: Callable[[], object] = lambda: None

    @contextmanager
    def open(
        self, key: str, codec: Codec, *, fresh: bool, base: Path
    ) -> Iterator[BlockIndex | None]:
        """An index for a new layer, which knows the last one with the same `key` and `codec`;
        `fresh` knows none. None without a key, and for a codec that has no blocks.

        The directory `base` is made if the tar of the new layer can be shared with the older one.
        """
        if not key or not codec.blocks_id:
            yield None
            return
        from shipline.layer import BlockIndex  # an unchanged build needs none

        older = None if fresh else _read(self.state / PLACE / key)
        with ExitStack() as stack:
            if older is None or older.form != codec.blocks_id:
                yield BlockIndex()
                return
            blob = open_file(self.store.path(older.blob), stack)
            tar = self.files.open_tar(older.diff_id, stack)
            if tar is not None:
                self.files.link_base(older.diff_id, tar, base)
            yield BlockIndex(older.rows, blob, tar)

    def save(self, key: str, codec: Codec, layer: Layer, index: BlockIndex) -> None:
        """Keep the index of a new layer."""
        new = self.scratch / f"blocks-{os.urandom(6).hex()}"
        digests = (str(layer.descriptor.digest), str(layer.diff_id))
        new.write_bytes(seal(_KIND, marshal.dumps((codec.blocks_id, *digests, index.dump()), 4)))
        (self.state / PLACE).mkdir(exist_ok=True)
        is_first = not (self.state / PLACE / key).exists()
        os.rename(new, self.state / PLACE / key)
        if not is_first:
            self.on_replaced()


def indexed_blobs(state: Path) -> Iterator[Digest]:
    """The blobs that an index refers to."""
    for path in (state / PLACE).glob("*"):
        if (found := _read(path)) is not None:
            yield found.blob


def _read(path: Path) -> _Record | None:
    """An index; None without one, and for one that is damaged."""
    with suppress(OSError):
        if (record := unseal(_KIND, read_file(path))) is not None:
            form, blob, diff_id, rows = marshal.loads(record)
            return _Record(form, Digest.parse(blob), Digest.parse(diff_id), rows)
    return None
