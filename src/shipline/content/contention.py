"""Tags that several writers change at once.

Few registries have conditional writes. In the others, a writer who read a tag before another one
wrote it replaces what that one wrote. So all writers of shared tags read them again, after the time
in which such a writer is done, and write again what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from shipline.tasks import sleep

_ATTEMPTS = 12
_PAUSE_S = (0.05, 0.2)  # random, so that writers get out of step; grows with each attempt


def attempts() -> Iterator[None]:
    """Attempts to write a shared tag, with pauses between them."""
    import random  # only needed here

    yield
    for attempt in range(1, _ATTEMPTS):
        sleep(random.uniform(*_PAUSE_S) * attempt)
        yield


@contextmanager
def settling() -> Iterator[None]:
    """Write a shared tag in the block. It ends when those who read the tag before have written it
    too: after twice the time that the block took.
    """
    began = time.monotonic()
    yield
    sleep(2 * (time.monotonic() - began))
