"""File trees, tar archives and compressed layers, and conversions between them.

What an unchanged build does not need is loaded when it is first named, or called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipline.layer.codecs import Codec, Compression, Layer, codec, codec_of_layer
from shipline.layer.entry import (
    CAPABILITY,
    Content,
    Contents,
    Entry,
    Item,
    Kind,
    OpenDirectory,
    Source,
    SymlinkLoop,
    entry_of,
    resolve,
)
from shipline.layer.mirror import Written
from shipline.layer.stat_cache import StatCache
from shipline.layer.stored_tar import Extent, StoredTar
from shipline.layer.toc import LayeredToc, Toc, TocBuilder
from shipline.layer.tree import Prune, Tree, scan, unpacked_items
from shipline.lazy import load_when_called, load_when_named

if TYPE_CHECKING:
    from shipline.layer.apply import UnsafeEntry, Whiteouts, unpack
    from shipline.layer.blocks import BlockIndex, cut_tar
    from shipline.layer.changed import is_changed_little, stream_changed
    from shipline.layer.changesets import changeset, conform, lower_directory
    from shipline.layer.decompression import decompress, sniff
    from shipline.layer.estargz import ANNOTATIONS, without_toc
    from shipline.layer.stream import stream_blocks, stream_layer
    from shipline.layer.tar_reader import read_tar
    from shipline.layer.tar_writer import write_tar
    from shipline.layer.windows import from_windows, to_windows
else:
    __getattr__ = load_when_named(
        __name__, apply="UnsafeEntry Whiteouts", blocks="BlockIndex", estargz="ANNOTATIONS"
    )
    (unpack,) = load_when_called(f"{__name__}.apply", "unpack")
    (cut_tar,) = load_when_called(f"{__name__}.blocks", "cut_tar")
    is_changed_little, stream_changed = load_when_called(
        f"{__name__}.changed", "is_changed_little", "stream_changed"
    )
    changeset, conform, lower_directory = load_when_called(
        f"{__name__}.changesets", "changeset", "conform", "lower_directory"
    )
    decompress, sniff = load_when_called(f"{__name__}.decompression", "decompress", "sniff")
    (without_toc,) = load_when_called(f"{__name__}.estargz", "without_toc")
    stream_blocks, stream_layer = load_when_called(
        f"{__name__}.stream", "stream_blocks", "stream_layer"
    )
    (read_tar,) = load_when_called(f"{__name__}.tar_reader", "read_tar")
    (write_tar,) = load_when_called(f"{__name__}.tar_writer", "write_tar")
    from_windows, to_windows = load_when_called(f"{__name__}.windows", "from_windows", "to_windows")
