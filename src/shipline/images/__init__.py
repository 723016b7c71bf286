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
from shipline.images.places import OpenImage, Place, PlaceKind, Places, parse_place, parse_target
from shipline.images.tree import TreeNode, image_tree

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
    "TreeNode",
    "copy_tag",
    "digest_of",
    "image_tree",
    "missing",
    "parse_place",
    "parse_target",
]
