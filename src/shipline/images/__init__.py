"""Images wherever they are: registries, image layouts, archives and engines, and copies between
them.
"""

from shipline.images.copying import (
    CopyOptions,
    Meter,
    NarrowedSource,
    Remote,
    TagMoved,
    copy_tag,
    digest_of,
    missing,
)
from shipline.images.places import OpenImage, Place, PlaceKind, Places, parse_place

__all__ = [
    "CopyOptions",
    "Meter",
    "NarrowedSource",
    "OpenImage",
    "Place",
    "PlaceKind",
    "Places",
    "Remote",
    "TagMoved",
    "copy_tag",
    "digest_of",
    "missing",
    "parse_place",
]
