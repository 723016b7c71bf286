"""Taking away what nothing needs, while the node works.

Collected are blobs that no manifest of their repository needs, signatures and referrers of images
that were deleted, manifests that nothing leads to where that is asked for, repositories with
nothing in them, and files that no repository holds. Never what is younger than the grace period or
was touched within it: a push may be about to need it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from shipline.errors import Cancelled, ShiplineError, UsageError
from shipline.server.collection import Collection, Report
from shipline.server.journal import Event, Tell
from shipline.server.storage import Storage
from shipline.server.sweep import Sweep
from shipline.tasks import sleep

_log = logging.getLogger(__name__)
COLLECTION = "collection"  # who does what nobody has asked for


def collect(
    storage: Storage,
    options: Collection | None = None,
    *,
    dry_run: bool = False,
    share: float = 1.0,
    actor: str = COLLECTION,
    tell: Tell = lambda event: None,
) -> Report:
    """Collect once; returns what went. `share` is the part of the time that it works. `tell` gets
    an event for each manifest and tag that went, and one for the whole.

    On a full disk it works in the room that is held in reserve. Raises UsageError while another
    collection of the directory runs.
    """
    if not storage.collecting.acquire(blocking=False):
        raise UsageError("a collection is running already", hint="wait until it has ended")
    options = options or Collection()
    try:
        report = storage.making_room(
            lambda: Sweep(storage, options, dry_run, share, actor, tell).run()
        )
        if not dry_run:
            tell(
                Event("collect", actor=actor, message=f"collection: {json.dumps(report.to_json())}")
            )
        return report
    finally:
        storage.reserve.hold()
        storage.collecting.release()


def collect_forever(
    storage: Storage,
    options: Collection,
    *,
    share: float = 0.25,
    told: Callable[[Report], object] = lambda report: None,
    tell: Tell = lambda event: None,
) -> None:
    """Collect every now and then until the scope is cancelled; `told` gets each report, `tell` the
    events.
    """
    if options.every is None:
        return
    try:
        while True:
            sleep(max(options.every.seconds, 1.0))
            try:
                report = collect(storage, options, share=share, tell=tell)
            except (OSError, ShiplineError) as error:
                _log.error("the collection ended early: %s", error)
                continue
            _log.info("collected %s", json.dumps(report.to_json()))
            told(report)
    except Cancelled:
        return
