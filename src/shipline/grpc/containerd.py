"""Messages of containerd's content service, which clients and servers of it share.

Source: containerd/containerd, api/services/content/v1/content.proto.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from msgspec import Struct, field


class WriteAction(IntEnum):
    STAT = 0
    WRITE = 1
    COMMIT = 2


class WriteRequest(Struct):
    action: Annotated[int, 1] = WriteAction.STAT
    ref: Annotated[str, 2] = ""
    total: Annotated[int, 3] = 0
    expected: Annotated[str, 4] = ""
    offset: Annotated[int, 5] = 0
    data: Annotated[bytes, 6] = b""
    labels: Annotated[dict[str, str], 7] = field(default_factory=dict)


class WriteResponse(Struct):
    """`offset` is the number of bytes that were written."""

    action: Annotated[int, 1] = WriteAction.STAT
    offset: Annotated[int, 4] = 0
    total: Annotated[int, 5] = 0
    digest: Annotated[str, 6] = ""


class ReadRequest(Struct):
    """A `size` of 0 is all that follows `offset`."""

    digest: Annotated[str, 1] = ""
    offset: Annotated[int, 2] = 0
    size: Annotated[int, 3] = 0


class ReadResponse(Struct):
    offset: Annotated[int, 1] = 0
    data: Annotated[bytes, 2] = b""


class InfoRequest(Struct):
    digest: Annotated[str, 1] = ""


class ContentInfo(Struct):
    digest: Annotated[str, 1] = ""
    size: Annotated[int, 2] = 0
    labels: Annotated[dict[str, str], 5] = field(default_factory=dict)


class InfoResponse(Struct):
    info: Annotated[ContentInfo | None, 1] = None
