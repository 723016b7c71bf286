"""File trees, tar archives and compressed layers, and the ways between them."""

from shipline.layer.codec import Codec, Compression, codec
from shipline.layer.entry import CAPABILITY, Content, Entry, Item, Kind, Source, Xattrs
from shipline.layer.stream import Layer, stream_layer
from shipline.layer.tar_reader import read_tar
from shipline.layer.tar_writer import write_tar

__all__ = [
    "CAPABILITY",
    "Codec",
    "Compression",
    "Content",
    "Entry",
    "Item",
    "Kind",
    "Layer",
    "Source",
    "Xattrs",
    "codec",
    "read_tar",
    "stream_layer",
    "write_tar",
]
