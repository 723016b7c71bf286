"""Admission with rules: each refusal names its rule, quotas included, and the way to satisfy it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from shipline.errors import ContentError
from shipline.metadata import walk
from shipline.oci import Digest, Index, Manifest, Reference, media, parse_manifest
from shipline.server.admission.evidence import StoredEvidence, descriptor_of
from shipline.server.admission.section import AdmissionSection, Quota
from shipline.server.admission.vulnerabilities import ReadRule, Scans
from shipline.server.cache import UPLOADING, StoredManifest, Totals, prefixes
from shipline.server.http import Principal
from shipline.server.journal import NodeEvent
from shipline.server.manifests import Manifests
from shipline.server.metrics import Metrics
from shipline.server.problems import Problem
from shipline.server.storage import Storage
from shipline.supply import DEFAULT_LIMITS
from shipline.trust import (
    TrustPolicy,
    TrustSection,
    TrustVerdict,
    load_trust,
    statement_subject,
    trusted_keys,
)


class Quotas:
    """A project is a prefix of names: one that `projects` (of the accounts) or a rule names, else
    the first component; the longest counts for a repository. What it holds are its repositories
    and what uploads are bringing to them: requests of one moment see each other's.
    """

    def __init__(
        self,
        totals: Totals,
        rules: Sequence[Quota],
        projects: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._totals = totals
        self._rules = tuple(rules)
        self._projects = projects

    def admit(self, name: str, size: int, *, tags: int = 0) -> None:
        """Raises Problem 403 DENIED where `size` more bytes or `tags` more tags are too many."""
        if not self._rules:
            return
        known = {rule.project for rule in self._rules}.union(self._projects())
        project = next((one for one in prefixes(name) if one in known), name.partition("/")[0])
        rules = _about(self._rules, project)
        if not rules:
            return
        held = self._held(project, known)
        for rule in rules:
            if rule.size is not None and held["bytes"] + held[UPLOADING] + size > rule.size.bytes:
                used = f"{held['bytes']} bytes are used, {held[UPLOADING] + size} come"
                raise _full(project, f"{rule.size}", used)
            if rule.tags is not None and tags and held["tags"] + tags > rule.tags:
                raise _full(project, f"{rule.tags} tags", f"{held['tags']} are there")

    def _held(self, project: str, known: set[str]) -> Counter[str]:
        """Without what belongs to projects inside of this one."""
        held = self._totals.below(project)
        inside = {one for one in known if one.startswith(f"{project}/")}
        for one in inside:
            if inside.isdisjoint(list(prefixes(one))[1:]):
                held.subtract(self._totals.below(one))
        return held


def size_limit(rules: Sequence[Quota], project: str) -> int | None:
    """The most bytes that a project may hold, None for any number."""
    sizes = (rule.size for rule in _about(rules, project))
    return min((size.bytes for size in sizes if size is not None), default=None)


def _about(rules: Sequence[Quota], project: str) -> list[Quota]:
    return [rule for rule in rules if rule.project in ("*", project)]


def _full(project: str, limit: str, now: str) -> Problem:
    return Problem(
        403,
        "DENIED",
        f"quota of project {project}: the limit is {limit}, {now}; delete what is not needed and "
        "wait for the next collection, or ask for a higher quota",
    )


_NOWHERE = "localhost"  # stands for the node where nobody says how clients call it


class AdmissionRules:
    """A `Door`, and a `Listener`: what was attached and is gone counts no longer."""

    def __init__(
        self,
        section: AdmissionSection,
        storage: Storage,
        manifests: Manifests,
        metrics: Metrics,
        base: Path,
        projects: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Paths of keys are relative to `base`; `projects` are the names of those of the accounts.

        Raises ConfigError for keys that cannot be read.
        """
        self._section = section
        self._storage = storage
        self._manifests = manifests
        self._metrics = metrics
        self._host = section.hostname or _NOWHERE
        self._trust = load_trust(_for_node(section), base)
        self._judge = self._fresh_judge()
        self._quotas = Quotas(storage.totals, section.quotas, projects)
        read = _read_rules(section, base)
        self._scans = Scans(read, storage.clock)
        trusted = [key for rule in self._trust.rules for key in rule.keys]
        trusted += [key for rule in read for key in rule.keys]
        self._keys = tuple(dict.fromkeys(trusted))

    def pull(
        self, identity: Principal, name: str, reference: Digest | str, stored: StoredManifest
    ) -> None:
        """An account that may push here may also read what nobody has signed or scanned yet: that
        is how it comes to be signed and scanned.
        """
        if identity.kind != "anonymous" and identity.could("push", name):
            return
        if self._trust.rules:
            verdict = self._verdict(name, reference, stored)
            if not verdict.accepted:
                self._metrics.verdicts.labels("refused").inc()
                raise self._refused("signature", f"{name}@{stored.digest} {_why(verdict)}")
            self._metrics.verdicts.labels("allowed").inc()
        if reason := self._scanned(name, stored):
            raise self._refused("vulnerability", f"{name}@{stored.digest}: {reason}")

    def push(
        self,
        identity: Principal,
        name: str,
        digest: Digest,
        content: Manifest | Index,
        tags: tuple[str, ...],
    ) -> None:
        before = {tag: self._manifests.target(name, tag) for tag in tags}
        for tag, found in before.items():
            if found not in (None, digest) and self._immutable(name, tag):
                raise self._refused(
                    "immutable",
                    f"tag {tag} of {name} is immutable: it stays at {found}; take another tag",
                )
            if found not in (None, digest) and not identity.may("delete", name, tag):
                self._check_evidence(identity, name, tag, content)
        new = sum(found is None for found in before.values())
        with self._counting("quota"):
            self._quotas.admit(name, len(content.raw), tags=new)

    def _check_evidence(
        self, identity: Principal, name: str, tag: str, content: Manifest | Index
    ) -> None:
        """What a tag says about an image stays there: others than who made it alone may add to it,
        as cosign does, up to what is read of it.
        """
        if statement_subject(tag) is None or self._manifests.writer(name, tag) == identity.name:
            return
        before = self._manifests.get(name, tag)
        known = None if before is None else parse_manifest(before.raw, before.media_type)
        kept = known.layers if isinstance(known, Manifest) else ()
        now = content.layers if isinstance(content, Manifest) else ()
        if (
            now[: len(kept)] != kept
            or len(now) > DEFAULT_LIMITS.statements
            or sum(layer.size for layer in now) > DEFAULT_LIMITS.total
        ):
            raise self._refused(
                "evidence",
                f"tag {tag} of {name} holds statements that others made: they stay, and others "
                f"may only follow them, up to {DEFAULT_LIMITS.statements}; or attach a bundle, "
                "which needs no tag",
            )

    def delete(self, identity: Principal, name: str, target: Digest | str) -> None:
        if not self._section.immutable:
            return
        for tag in self._tags_of(name, target):
            if self._immutable(name, tag):
                raise self._refused(
                    "immutable",
                    f"tag {tag} of {name} is immutable: neither it nor its manifest can be deleted "
                    "while registry.policy.immutable says so",
                )

    def blob(self, identity: Principal, name: str, size: int) -> None:
        with self._counting("quota"):
            self._quotas.admit(name, size)

    def explain(self, name: str, stored: StoredManifest) -> tuple[bool, str] | None:
        if not self._trust.rules and not self._scans.covers(name):
            return None
        verdict = self._verdict(name, stored.digest, stored)
        if not verdict.accepted:
            return False, _why(verdict)
        reason = self._scanned(name, stored)
        return not reason, reason or verdict.reason

    def note(self, event: NodeEvent) -> None:
        """Listener: a statement that is gone, or was replaced, proves nothing more."""
        if event.kind in ("delete", "untag"):
            self._judge = self._fresh_judge()
        elif event.kind == "push":
            for subject in filter(None, map(statement_subject, event.tags)):
                self._judge.forget(subject)
            if self._keys and event.media_type in media.NAMED:
                self._evidence(event.repository).mark_proven(Digest.parse(event.digest), self._keys)

    def _fresh_judge(self) -> TrustPolicy:
        return TrustPolicy(self._trust, clock=self._storage.clock)

    def _verdict(self, name: str, reference: Digest | str, stored: StoredManifest) -> TrustVerdict:
        """Raises Problem 500 where what is attached to the image cannot be read."""
        source = self._evidence(name)
        tag = reference if isinstance(reference, str) else ""
        image = Reference(self._host, name, tag)
        try:
            return self._judge.verdict(source, image, descriptor_of(stored), source.parents)
        except ContentError as error:
            self._metrics.verdicts.labels("undecided").inc()
            raise self._refused("signature", f"{name}@{stored.digest}: {error.message}") from None

    def _scanned(self, name: str, stored: StoredManifest) -> str:
        """Why scan results keep the image here, empty where they do not."""
        if not self._scans.covers(name):
            return ""
        try:
            return self._scans.refusal(self._evidence(name), name, descriptor_of(stored))
        except ContentError as error:
            return error.message

    def _evidence(self, name: str) -> StoredEvidence:
        return StoredEvidence(self._storage, self._manifests, name)

    def _tags_of(self, name: str, target: Digest | str) -> Iterator[str]:
        if isinstance(target, str):
            yield target
            return
        for (tag,), _ in walk(self._storage.records, ("tagged", name, str(target))):
            yield tag

    def _immutable(self, name: str, tag: str) -> bool:
        return any(rule.covers(name, tag) for rule in self._section.immutable)

    def _refused(self, rule: str, message: str) -> Problem:
        self._metrics.refusals.labels(rule).inc()
        return Problem(403, "DENIED", message, detail={"rule": rule})

    @contextmanager
    def _counting(self, rule: str) -> Iterator[None]:
        try:
            yield
        except Problem:
            self._metrics.refusals.labels(rule).inc()
            raise


def _why(verdict: TrustVerdict) -> str:
    """One line: the rule, what is missing, and how to supply it."""
    details = "".join(f"; {line}" for line in verdict.details[:3])
    hint = f"; {verdict.hint}" if verdict.hint else ""
    return f"is not trusted (rule: {verdict.rule}): {verdict.reason}{details}{hint}"


def _for_node(section: AdmissionSection) -> TrustSection | None:
    """The rules as the node can apply them: without a name of its own it compares no hosts."""
    found = section.signatures
    if found is None or section.hostname:
        return found
    rules = tuple(replace(rule, identity=rule.identity.on_any_host()) for rule in found.rules)
    return replace(found, rules=rules)


def _read_rules(section: AdmissionSection, base: Path) -> list[ReadRule]:
    named = section.signatures.keys if section.signatures else {}
    return [
        ReadRule(rule, trusted_keys(rule.keys, named, base, f"vulnerabilities[{number}].keys"))
        for number, rule in enumerate(section.vulnerabilities)
    ]
