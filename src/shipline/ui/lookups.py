"""What pages know from git, registries and clusters: looked up with a time limit, kept for seconds.
A page shows what could not be looked up as not known, and does not fail.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from shipline.errors import ShiplineError
from shipline.lru import Lru
from shipline.tasks import time_limit

T = TypeVar("T")
Key = tuple[str, ...]
_CAPACITY = 500  # facts
_FAILED_S = 15.0  # before what failed, maybe after a long wait, is looked up again
_KEPT_S = 600.0  # what is shown, with its age, while it cannot be looked up again


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """A value as it was `at` a time, in seconds since 1970; None if it is not known. `problem` says
    why it could not be looked up just now; the value is an older one then.
    """

    value: T | None
    at: float
    problem: str = ""
    hint: str = ""


class Lookups:
    """Facts by key. Safe to use from any thread: two who ask for the same look it up once."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._facts: Lru[Key, tuple[float, Fact[Any]]] = Lru(_CAPACITY, _KEPT_S)
        self._locks: defaultdict[Key, threading.Lock] = defaultdict(threading.Lock)
        self._forgotten: defaultdict[str, int] = defaultdict(int)

    def get(
        self, key: Key, look: Callable[[], T], *, kept_s: float, within_s: float = 8.0
    ) -> Fact[T]:
        """What `look` returns, or returned less than `kept_s` ago. Its errors, and no answer
        within `within_s` seconds, make a fact with a problem, which is kept for a while.
        """
        with self._locks[key]:
            last = self._facts.get(key)
            if last is not None and self._clock() < last[0]:
                return last[1]
            times = self._forgotten[key[0]]
            before: Fact[T] = last[1] if last else Fact(None, self._clock())
            found = self._look(look, before, within_s)
            now = self._clock()
            kept_s = max(kept_s, _FAILED_S) if found.problem else kept_s
            fresh = self._forgotten[key[0]] == times
            self._facts.put(key, (now + kept_s if fresh else now, found))
            return found

    def last(self, key: Key) -> Fact[Any] | None:
        """What was found last, however old; None if nothing was looked up. Waits for nobody."""
        last = self._facts.get(key)
        return last[1] if last else None

    def forget(self, kind: str) -> None:
        """Look up again, next time, what has keys that begin with `kind`: it was changed."""
        self._forgotten[kind] += 1
        for key, (_, fact) in self._facts.items():
            if key[0] == kind:
                self._facts.put(key, (0.0, fact))

    def _look(self, look: Callable[[], T], before: Fact[T], within_s: float) -> Fact[T]:
        try:
            with time_limit(within_s):
                return Fact(look(), self._clock())
        except ShiplineError as error:
            return Fact(before.value, before.at, error.message, error.hint)
        except TimeoutError as error:
            return Fact(before.value, before.at, str(error))
