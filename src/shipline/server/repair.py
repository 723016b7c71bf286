"""Mending what a check finds, until it finds nothing.

What cannot be mended is taken out: records without their bytes go, damaged files move to
DIR/quarantine, a manifest that needs what is not there goes with its tags. Pushing such an image
again makes it whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from shipline.errors import ContentError
from shipline.server.check import Advance, Summary, check
from shipline.server.disk import sync_directory
from shipline.server.entries import Changes
from shipline.server.findings import Finding
from shipline.server.storage import Storage
from shipline.server.uploads import Uploads

_BATCH = 500  # findings mended at once
_ROUNDS = 1000  # each takes out what stood on what the one before took out


def repair(
    storage: Storage,
    *,
    quick: bool = False,
    told: Callable[[Finding], object] = lambda finding: None,
    advance: Advance = lambda size: None,
) -> Summary:
    """Mend everything; `told` gets each fault once it is mended. Returns what was mended.

    Files are hashed once, unless `quick`. Raises ContentError if faults are left.
    """
    total = _mend(storage, quick, told, advance)
    Uploads(storage).recover()
    for _ in range(_ROUNDS):
        again = _mend(storage, True, told, lambda size: None)
        total.kinds += again.kinds
        if again.clean:
            return total
    raise ContentError(
        f"{storage.root} still has faults after {_ROUNDS} rounds: {dict(again.kinds)}"
    )


def _mend(
    storage: Storage, quick: bool, told: Callable[[Finding], object], advance: Advance
) -> Summary:
    summary = Summary()
    faults = iter(check(storage, summary, quick=quick, advance=advance))
    while batch := list(islice(faults, _BATCH)):
        changes: Changes = {}
        for finding in batch:
            changes |= finding.changes
            if finding.quarantine is not None:
                set_aside(storage.root, finding.quarantine)
        storage.commit(changes)
        for finding in batch:
            told(finding)
    return summary


def set_aside(root: Path, path: Path) -> None:
    """Move a file out, without ever replacing one that was moved before."""
    aside = root / "quarantine"
    aside.mkdir(exist_ok=True)
    name = f"{path.parent.name}-{path.name}"
    place = aside / name
    number = 0
    while os.path.lexists(place):
        number += 1
        place = aside / f"{name}.{number}"
    path.rename(place)
    for directory in (aside, path.parent):
        sync_directory(directory)
