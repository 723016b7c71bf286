"""File trees, tar archives and compressed layers, and conversions between them."""

from shipline.layer.apply import UnsafeEntry, Whiteouts, unpack
from shipline.layer.blocks import BlockIndex, cut_tar
from shipline.layer.changed import is_changed_little, stream_changed
from shipline.layer.changesets import changeset, conform, lower_directory
from shipline.layer.codecs import Codec, Compression, codec, codec_of_layer
from shipline.layer.decompression import decompress, sniff
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
from shipline.layer.estargz import ANNOTATIONS, without_toc
from shipline.layer.mirror import Written
from shipline.layer.stored_tar import Extent, StoredTar
from shipline.layer.stream import Layer, stream_blocks, stream_layer
from shipline.layer.tar_reader import read_tar
from shipline.layer.tar_writer import write_tar
from shipline.layer.toc import LayeredToc, Toc, TocBuilder
from shipline.layer.tree import Prune, StatCache, Tree, scan, unpacked_items
