"""Range and conditional requests (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=(?:([0-9]+)-([0-9]*)|-([0-9]+))\Z", re.IGNORECASE)
_LONGEST = 100  # characters of a Range header that we read


class NotSatisfiable(Exception):
    """No byte of the content lies in the range."""


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first and last byte that are asked for, clamped to `size`; None means all.

    A header that asks for several ranges or makes no sense is ignored (RFC 9110, 14.2). Raises
    NotSatisfiable where the range begins behind the end, of the content or its own.
    """
    if not header or len(header) > _LONGEST:
        return None
    match = _RANGE.match(header.replace(" ", ""))
    if match is None:
        return None
    if match[3]:
        length = min(int(match[3]), size)
        if length == 0:
            raise NotSatisfiable
        return size - length, size - 1
    first, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if first >= size or last < first:
        raise NotSatisfiable
    return first, min(last, size - 1)


def may_change(if_match: str | None, if_none_match: str | None, etag: str) -> bool:
    """Whether the client wants what has `etag` now to change; empty is what is not there (RFC 9110,
    13.1.1 and 13.1.2).
    """
    if if_match is not None:
        wanted = {one.strip() for one in if_match.split(",")}
        if not etag or not wanted & {"*", etag}:
            return False
    return not etag or not unchanged(if_none_match, etag)


def unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has this content already (RFC 9110, 13.1.2; weak comparison).

    A digest without quotes is taken too: docker-registry takes it, and clients send it.
    """
    if if_none_match is None:
        return False
    known = {one.strip().removeprefix("W/").strip('"') for one in if_none_match.split(",")}
    return etag.strip('"') in known or "*" in known
