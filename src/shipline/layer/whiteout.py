"""Whiteouts: how a layer says that a name of the layers below is gone.

In archives `.wh.NAME` and `.wh..wh..opq` (image specification, layer.md, "Whiteouts"), in an
overlayfs upper directory a character device 0/0 or an extended attribute, and an attribute for
opaque directories (Documentation/filesystems/overlayfs.rst).
"""

from __future__ import annotations

PREFIX = ".wh."
OPAQUE = ".wh..wh..opq"
RESERVED = ".wh..wh."
"""Begins the names that AUFS kept for itself; those but OPAQUE mean nothing."""

OVERLAY = ("trusted.overlay.", "user.overlay.")
"""Begins the attributes of overlayfs: as root, and in a user namespace."""


def attribute(name: str, *, userxattr: bool) -> str:
    """The overlayfs attribute `name`, as the kind of mount wants it."""
    return OVERLAY[userxattr] + name
