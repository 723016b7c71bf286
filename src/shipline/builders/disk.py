"""The disk of a builder, as records of a cache; see `build.disk` for that of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from shipline.build.disk import CacheRecord, PruneLimits
from shipline.buildkit.control import Control
from shipline.buildkit.messages import PruneRequest, UsageRecord

Chosen = Callable[[CacheRecord], bool]


def scan(control: Control) -> list[CacheRecord]:
    """What the builder keeps. Raises RpcError."""
    return [_record(one) for one in control.disk_usage([])]


def prune(
    control: Control, limits: PruneLimits, chosen: Chosen | None, *, everything: bool
) -> Iterator[CacheRecord]:
    """Remove what is chosen, within limits; `everything` includes what the builder needs for
    itself. Each record when it has been removed.
    """
    request = PruneRequest(
        all=everything,
        max_used_space=limits.max_used or 0,
        min_free_space=limits.min_free or 0,
        reserved_space=limits.reserved or 0,
    )
    if chosen is not None:
        request.filter = [f"id=={record.id}" for record in scan(control) if chosen(record)]
        if not request.filter:
            return
    for removed in control.prune(request):
        yield _record(removed)


def _record(one: UsageRecord) -> CacheRecord:
    created = one.created_at.unix if one.created_at else 0.0
    return CacheRecord(
        one.id,
        one.record_type,
        one.description,
        Path(),
        Path(),
        one.size,
        created,
        one.last_used_at.unix if one.last_used_at else created,
        one.mutable,
        one.in_use,
        one.shared,
    )
