"""Group commit: concurrent writes become one transaction.

The first thread leads: it takes all waiting writes and commits them. Then each thread of the group
wakes the next one, since all at once would only wait for the interpreter's lock. Writes that arrive
meanwhile form the next group, led by its first. A lone writer does not wait; under contention the
leader waits briefly for as many as were in the last group, so that groups stay large.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

from msgspec import Struct, field

from shipline.metadata.protocols import NOTHING, Key, encode

_GATHER_S = 0.0005  # at most; half as many writes in a group take twice as long on a slow disk
Changes = Mapping[bytes, bytes | None]
Counters = Mapping[bytes, int]
Apply = Callable[[Changes, Counters, bool], None]
"""Writes changes and counters in one transaction; the last argument says whether to sync."""


class PendingWrite(Struct, eq=False):
    """A caller's pending write; `follower` is woken once its own thread goes on, unless its caller
    was interrupted: `abandoned`.
    """

    changes: Changes
    add: Counters
    durable: bool
    done: bool = False
    failure: BaseException | None = None
    follower: PendingWrite | None = None
    abandoned: bool = False
    wakeup: threading.Lock = field(default_factory=threading.Lock)


class GroupCommit:
    """`apply` is called by one thread at a time."""

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._lock = threading.Lock()
        self._waiting: list[PendingWrite] = []
        self._leader: PendingWrite | None = None
        self._last = 0  # writes in the last group
        self._awaited = 0  # waiting writes that wake the leader

    def write(
        self,
        changes: Mapping[Key, bytes | None],
        *,
        add: Mapping[Key, int] = NOTHING,
        durable: bool = True,
    ) -> None:
        """As `Records.write`. Raises what `apply` raised."""
        own = PendingWrite(
            {encode(key): value for key, value in changes.items()},
            {encode(key): delta for key, delta in add.items()},
            durable,
        )
        own.wakeup.acquire()
        try:
            with self._lock:
                self._waiting.append(own)
                if self._leader is None:
                    self._appoint()
                elif len(self._waiting) == self._awaited:
                    self._leader.wakeup.release()
            own.wakeup.acquire()
            if not own.done:
                self._lead(own)
        except BaseException:
            self._abandon(own)
            raise
        finally:
            if own.follower is not None:
                own.follower.wakeup.release()
        if own.failure is not None:
            raise own.failure

    def _lead(self, own: PendingWrite) -> None:
        self._gather(own)
        group: list[PendingWrite] = []
        try:
            with self._lock:
                group, self._waiting = self._waiting, []
                self._last, self._awaited = len(group), 0
            self._commit(group)
        except BaseException as failure:  # an interruption: nobody else has these writes
            for one in group:
                if not one.done:
                    one.failure, one.done = failure, True
            raise
        finally:
            with self._lock:
                self._appoint()
                others = (one for one in group if one is not own and not one.abandoned)
                for one, follower in pairwise((own, *others)):
                    one.follower = follower

    def _gather(self, own: PendingWrite) -> None:
        """Wait a moment for the writers of the last group, who are about to return."""
        with self._lock:
            self._awaited = self._last if len(self._waiting) < self._last else 0
        if self._awaited:
            own.wakeup.acquire(timeout=_GATHER_S)

    def _appoint(self) -> None:
        """Wake the leader of the next group, if there is one."""
        self._awaited = 0
        self._leader = next((one for one in self._waiting if not one.abandoned), None)
        if self._leader is not None:
            self._leader.wakeup.release()

    def _abandon(self, own: PendingWrite) -> None:
        """Stop any waiting for `own`, which a signal interrupted."""
        with self._lock:
            own.abandoned = True
            if self._leader is own:
                self._appoint()

    def _commit(self, group: list[PendingWrite]) -> None:
        """Commit a group; if the disk is full, each write alone, since some may fit."""
        failure = self._attempt(group)
        for write in group:
            alone = len(group) > 1 and _no_space(failure)
            write.failure = self._attempt([write]) if alone else failure
            write.done = True

    def _attempt(self, group: list[PendingWrite]) -> BaseException | None:
        try:
            self._apply(*merged(group), any(write.durable for write in group))
        except BaseException as failure:  # raised in every caller's own thread
            return failure
        return None


def merged(group: Iterable[PendingWrite]) -> tuple[dict[bytes, bytes | None], dict[bytes, int]]:
    """The combined effect of the writes in order."""
    changes: dict[bytes, bytes | None] = {}
    counters: dict[bytes, int] = {}
    for write in group:
        for key in write.changes.keys() & counters.keys():
            del counters[key]
        changes.update(write.changes)
        for key, delta in write.add.items():
            if key in changes:
                changes[key] = b"%d" % (int(changes[key] or 0) + delta)
            else:
                counters[key] = counters.get(key, 0) + delta
    return changes, counters


def _no_space(failure: BaseException | None) -> bool:
    return isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT)
