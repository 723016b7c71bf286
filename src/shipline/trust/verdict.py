"""Verdicts from a rule and the verified evidence, and a cache of accepted verdicts for at most a
day.

Refusals are not cached, so that a new signature counts at once. A tag is never part of a cache key,
because it can move.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shipline.lru import CAPACITY, Lru
from shipline.metadata import Key, Records, walk
from shipline.oci import Digest
from shipline.supply import Attestations, PublicKey, Verification, reasons, refusal_hint, short_name
from shipline.trust.rules import ResolvedRule

_SKEW_S = 300  # how far a signer's clock may be ahead


@dataclass(frozen=True, slots=True)
class Proofs:
    """The verified signatures of an image, and its attestations by type."""

    signatures: Verification
    attestations: Mapping[str, Attestations] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class TrustVerdict:
    """`reason` is one line; `details` explain it; `hint` is how to satisfy the rule. `keys` are the
    ids of the keys that count; `until` is when an accepted image becomes too old, in seconds since
    1970.
    """

    accepted: bool
    rule: str
    reason: str
    keys: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    hint: str = ""
    until: float | None = None


def judge(rule: ResolvedRule, proofs: Proofs, now: float) -> TrustVerdict:
    """The verdict of a rule that requires signatures."""
    title = rule.section.title
    fresh, stale = _fresh_keys(rule, proofs.signatures, now)
    if len(fresh) < rule.section.threshold:
        nothing = f"no {'other ' if fresh else ''}signature is attached to it"
        details = reasons(proofs.signatures.rejected, nothing)
        return TrustVerdict(
            False,
            title,
            f"{len(fresh)} of {rule.section.threshold} required keys signed it",
            tuple(key.id for key in fresh),
            (*stale, *(details if not stale else ())),
            _refusal_hint(rule, proofs.signatures, signed=bool(fresh), stale=bool(stale)),
        )
    ends = [_kth_end(fresh.values(), rule.section.threshold)]
    for kind, max_age in rule.predicates.items():
        expiry, problem = _attested(proofs.attestations.get(kind), max_age, now)
        if problem:
            keys = tuple(key.id for key in fresh)
            hint = f"`shipline attest --type {short_name(kind)} ...` with {_names(rule.keys)}"
            return TrustVerdict(
                False, title, f"{short_name(kind)}: {problem[0]}", keys, problem[1:], hint
            )
        ends.append(expiry)
    until = min((end for end in ends if end is not None), default=None)
    reason = f"signed by {_names(fresh)}"
    if nameless := [key for key in fresh if _nameless(key, proofs.signatures)]:
        reason += f", without an image name (by {_names(nameless)})"
    return TrustVerdict(True, title, reason, tuple(key.id for key in fresh), until=until)


def _refusal_hint(
    rule: ResolvedRule, verification: Verification, *, signed: bool, stale: bool
) -> str:
    sign = f"`shipline sign {'--again ' if stale else ''}--key KEY IMAGE` with {_choice(rule)}"
    if stale:
        return sign
    if signed:
        return f"more keys must sign it: {sign}"
    return refusal_hint(verification.rejected, sign, "add the key to the rule")


def _nameless(key: PublicKey, verification: Verification) -> bool:
    return not any(
        signature.identity for signature in verification.signatures if signature.key == key
    )


def _fresh_keys(
    rule: ResolvedRule, verification: Verification, now: float
) -> tuple[dict[PublicKey, float | None], tuple[str, ...]]:
    """The keys whose signatures count, with the time until they do, and why others do not count."""
    max_age = rule.section.max_age
    fresh: dict[PublicKey, float | None] = {}
    stale: list[str] = []
    for signature in verification.signatures:
        if max_age is None:
            fresh[signature.key] = None
        elif problem := _too_old(signature.signed_at, max_age.seconds, now):
            stale.append(f"{signature.form} signature by {signature.key.name}: {problem}")
        else:
            end = (signature.signed_at or 0) + max_age.seconds
            fresh[signature.key] = max(fresh.get(signature.key) or 0, end)
    return fresh, tuple(stale)


def _attested(
    attestations: Attestations | None, max_age: float | None, now: float
) -> tuple[float | None, tuple[str, ...]]:
    """Until when the newest attestation counts, or the reasons why none does."""
    if attestations is None or not attestations.proven:
        rejected = () if attestations is None else attestations.rejected
        return None, ("no trusted key attested it", *reasons(rejected, "nothing is attached"))
    if max_age is None:
        return None, ()
    times = [attestation.made_at for attestation in attestations.proven]
    valid = [time for time in times if time is not None and not _too_old(time, max_age, now)]
    if valid:
        return max(valid) + max_age, ()
    newest = max((time for time in times if time is not None), default=None)
    return None, (_too_old(newest, max_age, now),)


def _too_old(time: float | None, max_age: float, now: float) -> str:
    """Why a statement made at `time` does not count; empty if it does."""
    if time is None:
        return "it has no time"
    if time > now + _SKEW_S:
        return "its time is in the future"
    if now - time > max_age:
        return f"it is {_days(now - time)} old, more than {_days(max_age)}"
    return ""


def _kth_end(expiries: Iterable[float | None], threshold: int) -> float | None:
    """When fewer than `threshold` are left; None if never."""
    known = sorted((end for end in expiries if end is not None), reverse=True)
    return known[threshold - 1] if len(known) >= threshold else None


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days" if seconds >= 172800 else f"{seconds / 3600:.1f} hours"


def _choice(rule: ResolvedRule) -> str:
    names, threshold = _names(rule.keys), rule.section.threshold
    return names if len(rule.keys) == threshold else f"{threshold} of the keys {names}"


def _names(keys: Iterable[PublicKey]) -> str:
    return ", ".join(key.name for key in keys)


_KEPT_S = 86400
_ROOM = "trust"


@dataclass(frozen=True, slots=True)
class CachedVerdict:
    """An accepted verdict; `via` is the index through which it was accepted, if it was."""

    verdict: TrustVerdict
    until: float
    via: str = ""


class VerdictCache:
    """At most `capacity` verdicts in memory, twice as many in `records`. Safe from any thread."""

    def __init__(self, records: Records | None = None, capacity: int = CAPACITY) -> None:
        self._records = records
        self._capacity = capacity
        self._kept: Lru[Key, CachedVerdict] = Lru(capacity)
        self._written = 0
        self._lock = threading.Lock()
        self.generation = 0
        """How often verdicts were dropped: one that was reached meanwhile may be of before."""

    def get(self, policy: str, digest: Digest, name: str, now: float) -> TrustVerdict | None:
        """A cached verdict that has not expired at `now`, in Unix time; None if there is none."""
        key = (policy, str(digest), name)
        cached = self._kept.get(key)
        if cached is None and self._records is not None:
            cached = _read(self._records.get((_ROOM, *key)))
        return cached.verdict if cached is not None and now < cached.until else None

    def put(
        self,
        policy: str,
        digest: Digest,
        name: str,
        verdict: TrustVerdict,
        now: float,
        via: str = "",
        *,
        generation: int,
    ) -> None:
        """Cache an accepted verdict, unless any were dropped since `generation`; it expires with
        its proofs.
        """
        until = min(now + _KEPT_S, verdict.until if verdict.until is not None else now + _KEPT_S)
        key, entry = (policy, str(digest), name), CachedVerdict(verdict, until, via)
        with self._lock:
            if generation != self.generation:
                return
            self._kept.put(key, entry)
            prune = self._written % self._capacity == 0
            self._written += 1
            if self._records is not None:
                if prune:
                    self._prune(policy, now)
                self._records.write({(_ROOM, *key): _written(entry)})

    def forget(self, digest: Digest) -> None:
        """Drop the verdicts on `digest` and its children, after an attachment was deleted."""
        with self._lock:
            self.generation += 1
            self._forget(str(digest))

    def _forget(self, text: str) -> None:
        lost = {text}
        while affected := [k for k, verdict in self._kept.items() if lost & {k[1], verdict.via}]:
            for key in affected:
                lost.add(key[1])
                self._kept.drop(key)
        if self._records is not None:
            gone = [
                key
                for key, value in walk(self._records, (_ROOM,))
                if key[1] == text or ((entry := _read(value)) and entry.via == text)
            ]
            self._records.write({(_ROOM, *key): None for key in gone})

    def _prune(self, policy: str, now: float) -> None:
        """Delete expired verdicts, those of other policies, and those over capacity."""
        assert self._records is not None
        room = self._capacity - 1
        gone: list[Key] = []
        for key, value in walk(self._records, (_ROOM,)):
            entry = _read(value)
            if key[0] == policy and entry is not None and now < entry.until and room:
                room -= 1
            else:
                gone.append((_ROOM, *key))
        self._records.write(dict.fromkeys(gone))


def _written(entry: CachedVerdict) -> bytes:
    verdict = entry.verdict
    fields = [verdict.rule, verdict.reason, verdict.keys, verdict.until, entry.until, entry.via]
    return json.dumps(fields).encode()


def _read(value: bytes | None) -> CachedVerdict | None:
    if value is None:
        return None
    rule, reason, keys, until, end, via = json.loads(value)
    return CachedVerdict(TrustVerdict(True, rule, reason, tuple(keys), until=until), end, via)
