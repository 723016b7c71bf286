"""Certificates that change while the node runs: noticed, and taken without a restart."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from shipline.errors import Cancelled, ShiplineError
from shipline.server.access.certificates import Certificates
from shipline.tasks import sleep

_log = logging.getLogger(__name__)
_EVERY_S = 60.0
Renew = Callable[[], Certificates]


def watch_certificates(
    certificates: Certificates,
    renew: Renew,
    reload: Callable[[], None],
    *,
    every_s: float = _EVERY_S,
) -> None:
    """Call `reload` whenever the files changed, until cancelled. `renew` makes those that are ours
    anew before they end, and raises ShiplineError for a pair that does not fit: then what is in use
    stays.
    """
    seen = _stamps(certificates)
    try:
        while True:
            sleep(every_s)
            if renewed(renew) and _stamps(certificates) != seen:
                seen = _stamps(certificates)
                reload()
    except Cancelled:
        return


def renewed(renew: Renew | None) -> bool:
    """Whether the files can be used as they are now."""
    if renew is None:
        return True
    try:
        renew()
    except (ShiplineError, OSError) as error:
        _log.error("the certificate stays as it is: %s", error)
        return False
    return True


def _stamps(certificates: Certificates) -> list[tuple[int, int, int]]:
    return [_stamp(path) for path in (certificates.cert, certificates.key)]


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns)
