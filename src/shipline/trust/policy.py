"""Whether an image may be used: the rule for its name, the evidence, the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from shipline.content import fetch_document
from shipline.errors import ContentError, GateRefused
from shipline.oci import Descriptor, Digest, Index, Reference, media
from shipline.supply import (
    Form,
    PublicKey,
    Rejected,
    StatementSource,
    Verification,
    examine,
    examine_attestations,
)
from shipline.trust.exempt import StatementCheck
from shipline.trust.rules import ResolvedPolicy, ResolvedRule
from shipline.trust.verdict import Proofs, TrustVerdict, VerdictCache, judge
from shipline.values import replace

Parents = Callable[[Descriptor], Iterable[Descriptor]]
"""The indexes that may list an image; their content is checked."""

_DEPTH = 3  # of indexes in indexes
_PARENTS = 32  # indexes of one image that are asked


class TrustRefused(GateRefused):
    """The trust policy refuses the image; `verdicts` are the reasons."""

    code = "trust"


def _no_parents(target: Descriptor) -> Iterable[Descriptor]:
    return ()


class TrustPolicy:
    """Applies a policy, and caches its verdicts. Safe to use from any thread."""

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
        source: StatementSource,
        name: Reference,
        target: Descriptor,
        parents: Parents = _no_parents,
    ) -> TrustVerdict:
        """Whether `target` may be used as `name`: host and repository, with the tag only if the
        image was requested by that tag, since rules with `identity: exact` compare it. An image is
        also accepted if an index that lists it is. Raises what `source` raises if it cannot be
        read.
        """
        rule = self._trust.rule_for(name)
        if rule is None:
            accepted = self._trust.accepts_others
            reason = "no rule matches it" if self._trust.rules else "there is no trust policy"
            return TrustVerdict(accepted, "default", reason, hint=_NO_RULE if not accepted else "")
        if rule.section.action != "require":
            return TrustVerdict(
                rule.section.action == "accept", rule.section.title, "the rule says so"
            )
        if self._trust.as_podman:
            return self._each_platform(
                _Examination(rule, source, name, _no_parents, Form.TAG), target
            )
        verdict = self._signed(_Examination(rule, source, name, parents), target, _DEPTH)
        if not verdict.accepted and self._statements.has(source, target):
            return TrustVerdict(True, rule.section.title, "it is a statement about an image itself")
        return verdict

    def require(self, source: StatementSource, name: Reference, target: Descriptor) -> TrustVerdict:
        """The verdict that accepts `target`. Raises TrustRefused for a refusal."""
        verdict = self.verdict(source, name, target)
        if verdict.accepted:
            return verdict
        raise TrustRefused(
            f"{name.at(target.digest)} is not trusted (rule: {verdict.rule}): {verdict.reason}",
            verdicts=verdict.details,
            hint=verdict.hint,
        )

    def signatures(
        self, source: StatementSource, name: Reference, target: Descriptor
    ) -> Verification | None:
        """The signatures of `target` itself that count by the rule for its name, and those that do
        not; None without a rule that requires any.
        """
        rule = self._trust.rule_for(name)
        if rule is None or rule.section.action != "require":
            return None
        form = Form.TAG if self._trust.as_podman else None
        return _Examination(rule, source, name, _no_parents, form).proofs(target).signatures

    def keys_for(self, name: Reference) -> tuple[PublicKey, ...]:
        """The keys that may sign statements about an image."""
        rule = self._trust.rule_for(name)
        return rule.keys if rule else ()

    def forget(self, digest: Digest) -> None:
        """Drop the cached verdicts on `digest`, since a statement about it was deleted."""
        self._cache.forget(digest)

    def _each_platform(self, examination: _Examination, target: Descriptor) -> TrustVerdict:
        """The verdict of podman: each image of an index must be signed itself. If one platform is
        refused, the index is.
        """
        now, verdict = self._clock(), None
        for image in _images(examination.source, target):
            verdict = judge(examination.rule, examination.proofs(image), now)
            if not verdict.accepted:
                where = "" if image.digest == target.digest else f"{_shown(image)}: "
                return replace(verdict, reason=f"{where}{verdict.reason}")
        return verdict or TrustVerdict(
            False, examination.rule.section.title, "the index lists no image"
        )

    def _signed(self, examination: _Examination, target: Descriptor, depth: int) -> TrustVerdict:
        """The verdict based on signatures of `target`, or of an index above it, at most `depth`
        levels up.
        """
        now, policy, where = self._clock(), self._trust.hash, str(examination.name.at(None))
        generation = self._cache.generation
        if cached := self._cache.get(policy, target.digest, where, now):
            return cached
        verdict, via = judge(examination.rule, examination.proofs(target), now), ""
        if not verdict.accepted and depth:
            for parent in examination.indexes_of(target):
                of_parent = self._signed(examination, parent, depth - 1)
                if of_parent.accepted:
                    reason = f"listed by {parent.digest}, {of_parent.reason}"
                    verdict, via = replace(of_parent, reason=reason), str(parent.digest)
                    break
        if verdict.accepted:
            self._cache.put(policy, target.digest, where, verdict, now, via, generation=generation)
        return verdict


@dataclass(frozen=True, slots=True)
class _Examination:
    """What images requested as `name` are examined by: the rule, and the source of evidence."""

    rule: ResolvedRule
    source: StatementSource
    name: Reference
    parents: Parents
    form: Form | None = None  # the only one that counts

    def proofs(self, target: Descriptor) -> Proofs:
        """The verified evidence; attestations are only read if there are enough signatures."""
        rule, keys = self.rule.section, self.rule.keys
        signatures = examine(
            self.source,
            target,
            self.name,
            keys,
            identity=rule.identity,
            annotations=rule.annotations,
        )
        if self.form is not None:
            signatures = _only(signatures, self.form)
        if len(signatures.keys) < rule.threshold:
            return Proofs(signatures)
        attested = {
            kind: examine_attestations(self.source, target, keys, kind)
            for kind in self.rule.predicates
        }
        return Proofs(signatures, attested)

    def indexes_of(self, target: Descriptor) -> Iterator[Descriptor]:
        """The indexes that list `target`, as their content shows."""
        for parent in islice(self.parents(target), _PARENTS):
            if _lists(self.source, parent, target.digest):
                yield parent


_NO_RULE = "add a rule for it to `trust.rules`, or set `trust.default: accept`"


def _only(verification: Verification, form: Form) -> Verification:
    """The verification without signatures in forms that podman and skopeo do not read."""
    left_out = (signature for signature in verification.signatures if signature.form is not form)
    rejected = (
        Rejected(
            signature.place,
            signature.form,
            f"podman and skopeo do not read signatures in a {signature.form}",
        )
        for signature in left_out
    )
    proven = tuple(signature for signature in verification.signatures if signature.form is form)
    return replace(verification, signatures=proven, rejected=(*verification.rejected, *rejected))


def _images(source: StatementSource, target: Descriptor) -> Iterator[Descriptor]:
    """The image itself, or the images of an index without its attestations."""
    if target.media_type not in media.INDEXES:
        yield target
        return
    index = fetch_document(source, target)
    for child in index.manifests if isinstance(index, Index) else ():
        if child.platform is None or child.platform.os != "unknown":
            yield from _images(source, child)


def _shown(image: Descriptor) -> str:
    return f"{image.platform} ({image.digest})" if image.platform else str(image.digest)


def _lists(source: StatementSource, parent: Descriptor, digest: Digest) -> bool:
    try:
        parsed = fetch_document(source, parent)
    except ContentError:
        return False
    return isinstance(parsed, Index) and any(child.digest == digest for child in parsed.manifests)
