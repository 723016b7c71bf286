"""May this image be used: the rule for its name, the proofs, the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

from shipline.content import fetch_all
from shipline.errors import ContentError, GateRefused
from shipline.oci import MANIFEST_LIMIT, Descriptor, Digest, Index, Reference, media, parse_manifest
from shipline.supply import Evidence, Form, Rejected, Verification, examine, examine_attestations
from shipline.trust.exempt import StatementCheck
from shipline.trust.rules import ResolvedPolicy, ResolvedRule
from shipline.trust.verdict import Proofs, TrustVerdict, VerdictCache, judge

Parents = Callable[[Descriptor], Iterable[Descriptor]]
"""The indexes that may list an image; what they really list is looked up."""

_DEPTH = 3  # of indexes in indexes
_PARENTS = 32  # indexes of one image that are asked


class TrustRefused(GateRefused):
    """The trust policy does not let this image be used; `verdicts` are the reasons."""

    code: ClassVar[str] = "trust"


def _no_parents(target: Descriptor) -> Iterable[Descriptor]:
    return ()


class TrustPolicy:
    """Verdicts of one policy. Safe to use from any thread."""

    def __init__(
        self,
        trust: ResolvedPolicy,
        cache: VerdictCache | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._trust = trust
        self._cache = cache or VerdictCache()
        self._clock = clock
        self._statements = StatementCheck()

    def verdict(
        self,
        source: Evidence,
        name: Reference,
        target: Descriptor,
        parents: Parents = _no_parents,
    ) -> TrustVerdict:
        """Whether `target` may be used as `name` (host and repository; a tag counts where the rule
        says `identity: exact`, so hand it in only where the image was asked for by that tag).

        An image is also accepted where an index is that lists it. Raises what `source` raises when
        it cannot be asked.
        """
        rule = self._trust.rule_for(name)
        if rule is None:
            accepted = self._trust.accepts_others
            reason = "no rule is about it" if self._trust.rules else "there is no trust policy"
            return TrustVerdict(accepted, "default", reason, hint=_NO_RULE if not accepted else "")
        if rule.said.action != "require":
            return TrustVerdict(rule.said.action == "accept", rule.said.title, "the rule says so")
        if self._trust.as_podman:
            return self._each_platform(_Asked(rule, source, name, _no_parents, Form.TAG), target)
        found = self._signed(_Asked(rule, source, name, parents), target, _DEPTH)
        if not found.accepted and self._statements.has(source, target):
            return TrustVerdict(True, rule.said.title, "it is a statement about an image itself")
        return found

    def demand(
        self,
        source: Evidence,
        name: Reference,
        target: Descriptor,
        parents: Parents = _no_parents,
    ) -> TrustVerdict:
        """The same, but raises TrustRefused instead of a refusal."""
        found = self.verdict(source, name, target, parents)
        if found.accepted:
            return found
        raise TrustRefused(
            f"{name.at(target.digest)} is not trusted (rule: {found.rule}): {found.reason}",
            verdicts=found.details,
            hint=found.hint,
        )

    def forget(self, digest: Digest) -> None:
        """A statement about `digest` was deleted."""
        self._cache.forget(digest)

    def _each_platform(self, asked: _Asked, target: Descriptor) -> TrustVerdict:
        """The verdict on what is run: each image of an index, whose own signature counts for none
        of them. What is refused on one platform is refused.
        """
        now, found = self._clock(), None
        for image in _images(asked.source, target):
            found = judge(asked.rule, asked.findings(image), now)
            if not found.accepted:
                where = "" if image.digest == target.digest else f"{_shown(image)}: "
                return replace(found, reason=f"{where}{found.reason}")
        return found or TrustVerdict(False, asked.rule.said.title, "the index lists no image")

    def _signed(self, asked: _Asked, target: Descriptor, depth: int) -> TrustVerdict:
        """The verdict by signatures of `target`, or of an index that lists it."""
        now, policy, where = self._clock(), self._trust.hash, str(asked.name.at(None))
        if kept := self._cache.get(policy, target.digest, where, now):
            return kept
        found, via = judge(asked.rule, asked.findings(target), now), ""
        if not found.accepted and depth:
            for parent in asked.listing(target):
                above = self._signed(asked, parent, depth - 1)
                if above.accepted:
                    reason = f"listed by {parent.digest}, {above.reason}"
                    found, via = replace(above, reason=reason), str(parent.digest)
                    break
        if found.accepted:
            self._cache.put(policy, target.digest, where, found, now, via)
        return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """One question, with where to look for the answer."""

    rule: ResolvedRule
    source: Evidence
    name: Reference
    parents: Parents
    form: Form | None = None  # the only one that counts

    def findings(self, target: Descriptor) -> Proofs:
        """What is proven; attestations only where there are signatures enough."""
        said, keys = self.rule.said, self.rule.keys
        signatures = examine(
            self.source,
            target,
            self.name,
            keys,
            identity=said.identity,
            annotations=said.annotations,
        )
        if self.form is not None:
            signatures = _only(signatures, self.form)
        if len(signatures.keys) < said.threshold:
            return Proofs(signatures)
        attested = {
            kind: examine_attestations(self.source, target, keys, kind)
            for kind in self.rule.predicates
        }
        return Proofs(signatures, attested)

    def listing(self, target: Descriptor) -> Iterator[Descriptor]:
        """The indexes that really list `target`."""
        for parent in islice(self.parents(target), _PARENTS):
            if _lists(self.source, parent, target.digest):
                yield parent


_NO_RULE = "add a rule for it to `trust.rules`, or set `trust.default: accept`"


def _only(found: Verification, form: Form) -> Verification:
    """Without signatures in forms that podman and skopeo do not read."""
    left_out = (one for one in found.signatures if one.form is not form)
    rejected = (
        Rejected(one.place, one.form, f"podman and skopeo read no signature as a {one.form}")
        for one in left_out
    )
    proven = tuple(one for one in found.signatures if one.form is form)
    return replace(found, signatures=proven, rejected=(*found.rejected, *rejected))


def _images(source: Evidence, target: Descriptor) -> Iterator[Descriptor]:
    """The image, or those that an index has for platforms; its attestations are none."""
    if target.media_type not in media.INDEXES:
        yield target
        return
    index = parse_manifest(fetch_all(source, target, MANIFEST_LIMIT), target.media_type)
    for one in index.manifests if isinstance(index, Index) else ():
        if one.platform is None or one.platform.os != "unknown":
            yield from _images(source, one)


def _shown(image: Descriptor) -> str:
    return f"{image.platform} ({image.digest})" if image.platform else str(image.digest)


def _lists(source: Evidence, parent: Descriptor, digest: Digest) -> bool:
    try:
        raw = fetch_all(source, parent, MANIFEST_LIMIT)
        parsed = parse_manifest(raw, parent.media_type)
    except ContentError:
        return False
    return isinstance(parsed, Index) and any(one.digest == digest for one in parsed.manifests)
