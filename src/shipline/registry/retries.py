"""When a request is made again, and how long is waited before that."""

from __future__ import annotations

from shipline.errors import ShiplineError
from shipline.registry.errors import RequestRefused
from shipline.registry.limits import MAX_RETRY_AFTER_S
from shipline.tasks import sleep

TRIES = 5
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.25, 20.0


class Retries:
    """The attempts at one thing, of which `failures` in a row have failed: at most `tries`."""

    def __init__(self, tries: int, failures: int = 0) -> None:
        self.tries = tries
        self.failures = failures

    @property
    def is_last(self) -> bool:
        """Whether this attempt, if it fails, is not followed by another one."""
        return self.failures + 1 >= self.tries

    def failed(self, error: ShiplineError, *, retriable: bool = False) -> None:
        """Wait before another attempt: exponentially with jitter, or as the server's Retry-After
        asks.

        Raises `error` if this was the last attempt, another one would not help, unless `retriable`
        says so, or the wait would be longer than `MAX_RETRY_AFTER_S`.
        """
        self.failures += 1
        if not (error.retriable or retriable) or self.failures >= self.tries:
            raise error
        retry_after_s = error.retry_after_s if isinstance(error, RequestRefused) else None
        if retry_after_s is not None and retry_after_s > MAX_RETRY_AFTER_S:
            error.hint = f"the registry asks to retry in {retry_after_s:.0f} seconds; {error.hint}"
            raise error
        wait = min(_FIRST_BACKOFF_S * 2 ** (self.failures - 1), _MAX_BACKOFF_S)
        import random  # only needed here

        wait *= random.uniform(0.75, 1.25)
        sleep(wait if retry_after_s is None else retry_after_s + wait / 4)
