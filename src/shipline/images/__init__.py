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
from shipline.images.formats import ImageFormat
from shipline.images.places import OpenImage, Place, PlaceKind, Places, parse_place, parse_target
from shipline.images.tree import image_tree
