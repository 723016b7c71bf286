"""Accepted verdicts, kept under digest, repository and policy, for a day at most.

Refusals are not kept, so that a signature counts as soon as it is there. A tag is never part of a
key: what it names may have changed since.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass

from shipline.metadata import Key, Records, walk
from shipline.oci import Digest
from shipline.policy.trust.verdict import Verdict

_KEPT_S = 86400
_ROOM = "trust"


@dataclass(frozen=True, slots=True)
class Kept:
    """An accepted verdict; `via` is the index through which it was accepted, if it was."""

    verdict: Verdict
    until: float
    via: str = ""


class VerdictCache:
    """At most `capacity` verdicts in memory, twice as many in `records`. Safe from any thread."""

    def __init__(self, records: Records | None = None, capacity: int = 10_000) -> None:
        self._records = records
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self._written = 0

    def get(self, policy: str, digest: Digest, name: str, now: float) -> Verdict | None:
        key = (policy, str(digest), name)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        if kept is None and self._records is not None:
            kept = _read(self._records.get((_ROOM, *key)))
        return kept.verdict if kept is not None and now < kept.until else None

    def put(
        self, policy: str, digest: Digest, name: str, verdict: Verdict, now: float, via: str = ""
    ) -> None:
        """Keep an accepted verdict; it ends with what it rests on."""
        until = min(now + _KEPT_S, verdict.until if verdict.until is not None else now + _KEPT_S)
        key, kept = (policy, str(digest), name), Kept(verdict, until, via)
        with self._lock:
            self._kept[key] = kept
            self._kept.move_to_end(key)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
            prune = self._written % self._capacity == 0
            self._written += 1
        if self._records is not None:
            if prune:
                self._prune(policy, now)
            self._records.write({(_ROOM, *key): _written(kept)})

    def forget(self, digest: Digest) -> None:
        """Something that was attached to `digest` is gone: ask again, also for its children."""
        text = str(digest)
        with self._lock:
            lost = {text}
            while found := [k for k, one in self._kept.items() if lost & {k[1], one.via}]:
                for key in found:
                    lost.add(key[1])
                    del self._kept[key]
        if self._records is not None:
            gone = [
                key
                for key, value in walk(self._records, (_ROOM,))
                if key[1] == text or ((kept := _read(value)) and kept.via == text)
            ]
            self._records.write({(_ROOM, *key): None for key in gone})

    def _prune(self, policy: str, now: float) -> None:
        """Delete what has ended, what another policy said, and what is too much."""
        assert self._records is not None
        room = self._capacity - 1
        gone: list[Key] = []
        for key, value in walk(self._records, (_ROOM,)):
            kept = _read(value)
            if key[0] == policy and kept is not None and now < kept.until and room:
                room -= 1
            else:
                gone.append((_ROOM, *key))
        self._records.write(dict.fromkeys(gone))


def _written(kept: Kept) -> bytes:
    verdict = kept.verdict
    fields = [verdict.rule, verdict.reason, verdict.keys, verdict.until, kept.until, kept.via]
    return json.dumps(fields).encode()


def _read(value: bytes | None) -> Kept | None:
    if value is None:
        return None
    rule, reason, keys, until, end, via = json.loads(value)
    return Kept(Verdict(True, rule, reason, tuple(keys), until=until), end, via)
