"""Admission rules, quotas included: each refusal names its rule and how to satisfy it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shipline.errors import ContentError
from shipline.metadata import walk
from shipline.oci import Digest, Index, Manifest, Reference, media, parse_manifest
from shipline.server.admission.evidence import StoredEvidence, descriptor_of
from shipline.server.admission.protocol import PullVerdict, TrustedScan
from shipline.server.admission.section import AdmissionSection, Quota
from shipline.server.admission.vulnerabilities import LoadedRule, Scans
from shipline.server.cache import UPLOADING, StoredManifest, UsageTotals, prefixes
from shipline.server.events import NodeEvent
from shipline.server.http import Principal
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
from shipline.values import replace


class Quotas:
    """Quotas of projects. A project is a prefix of repository names: one in `projects` (of the
    accounts) or in a rule, else the first component; the longest applies. Unfinished uploads count,
    so that concurrent requests cannot pass together.
    """

    def __init__(
        self,
        totals: UsageTotals,
        rules: Sequence[Quota],
        projects: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._totals = totals
        self._rules = tuple(rules)
        self._projects = projects

    def admit(self, name: str, size: int, *, tags: int = 0) -> None:
        """Raises Problem 403 DENIED if `size` more bytes or `tags` more tags exceed a quota."""
        if not self._rules:
            return
        known = {rule.project for rule in self._rules}.union(self._projects())
        project = next(
            (prefix for prefix in prefixes(name) if prefix in known), name.partition("/")[0]
        )
        rules = _rules_for(self._rules, project)
        if not rules:
            return
        usage = self._usage_of(project, known)
        for rule in rules:
            if rule.size is not None and usage["bytes"] + usage[UPLOADING] + size > rule.size.bytes:
                used = (
                    f"{usage['bytes']} bytes are used, {usage[UPLOADING] + size} more are incoming"
                )
                raise _quota_exceeded(project, f"{rule.size}", used)
            if rule.tags is not None and tags and usage["tags"] + tags > rule.tags:
                raise _quota_exceeded(project, f"{rule.tags} tags", f"{usage['tags']} exist")

    def _usage_of(self, project: str, known: set[str]) -> Counter[str]:
        """The usage of a project, without that of projects nested in it."""
        usage = self._totals.total(project)
        nested = {
            known_project for known_project in known if known_project.startswith(f"{project}/")
        }
        for other in nested:
            if nested.isdisjoint(list(prefixes(other))[1:]):
                usage.subtract(self._totals.total(other))
        return usage


def size_limit(rules: Sequence[Quota], project: str) -> int | None:
    """The quota of a project in bytes, None without one."""
    sizes = (rule.size for rule in _rules_for(rules, project))
    return min((size.bytes for size in sizes if size is not None), default=None)


def _rules_for(rules: Sequence[Quota], project: str) -> list[Quota]:
    return [rule for rule in rules if rule.project in ("*", project)]


def _quota_exceeded(project: str, limit: str, now: str) -> Problem:
    return Problem(
        403,
        "DENIED",
        f"quota of project {project}: the limit is {limit}, {now}; delete unneeded content and "
        "wait for garbage collection, or ask for a higher quota",
    )


_NOWHERE = "localhost"  # host of the node if none is configured


class AdmissionRules:
    """An `Admission`; also a `Listener`, so that verdicts follow changed statements."""

    def __init__(
        self,
        section: AdmissionSection,
        storage: Storage,
        manifests: Manifests,
        metrics: Metrics,
        base: Path,
        projects: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Paths of keys are relative to `base`; `projects` returns the names of the accounts'
        projects.

        Raises ConfigError for unreadable keys.
        """
        self._section = section
        self._storage = storage
        self._manifests = manifests
        self._metrics = metrics
        self._host = section.hostname or _NOWHERE
        self._trust = load_trust(_for_node(section), base)
        self._trust_policy = self._new_trust_policy()
        self._quotas = Quotas(storage.totals, section.quotas, projects)
        read = _load_rules(section, base)
        self._scans = Scans(read, storage.clock)
        trusted = [key for rule in self._trust.rules for key in rule.keys]
        trusted += [key for rule in read for key in rule.keys]
        self._keys = tuple(dict.fromkeys(trusted))

    def pull(
        self, principal: Principal, name: str, reference: Digest | str, stored: StoredManifest
    ) -> None:
        """Accounts that may push are exempt: they pull an image to sign or scan it."""
        if principal.kind != "anonymous" and principal.account_may("push", name):
            return
        if self._trust.rules:
            verdict = self._verdict(name, reference, stored)
            if not verdict.accepted:
                self._metrics.verdicts.labels("refused").inc()
                raise self._refusal("signature", f"{name}@{stored.digest} {_explain(verdict)}")
            self._metrics.verdicts.labels("allowed").inc()
        if reason := self._scan_refusal(name, stored):
            raise self._refusal("vulnerability", f"{name}@{stored.digest}: {reason}")

    def push(
        self,
        principal: Principal,
        name: str,
        digest: Digest,
        content: Manifest | Index,
        tags: tuple[str, ...],
    ) -> None:
        self._check_media_type(name, digest, content)
        before = {tag: self._manifests.target(name, tag) for tag in tags}
        for tag, current in before.items():
            if current not in (None, digest) and self._immutable(name, tag):
                raise self._refusal(
                    "immutable",
                    f"tag {tag} of {name} is immutable: it points to {current}; use another tag",
                )
            if current not in (None, digest) and not principal.may("delete", name, tag):
                self._check_evidence(principal, name, tag, content)
        new = sum(current is None for current in before.values())
        with self._counting_refusals("quota"):
            self._quotas.admit(name, len(content.raw), tags=new)

    def _check_media_type(self, name: str, digest: Digest, content: Manifest | Index) -> None:
        """A manifest without `mediaType` is what its last push called it."""
        known = self._manifests.entry(name, digest) if self._section.immutable else None
        if known is None or known.media_type == content.media_type:
            return
        for tag in self._tags_of(name, digest):
            if self._immutable(name, tag):
                raise self._refusal(
                    "immutable",
                    f"tag {tag} of {name} is immutable: its manifest stays a {known.media_type}",
                )

    def _check_evidence(
        self, principal: Principal, name: str, tag: str, content: Manifest | Index
    ) -> None:
        """Statements in a tag stay: accounts other than its only writer may just append, as cosign
        does, up to the number of statements that verification reads.
        """
        if statement_subject(tag) is None or self._manifests.writer(name, tag) == principal.name:
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
            raise self._refusal(
                "evidence",
                f"tag {tag} of {name} holds statements of other accounts, which may only be "
                f"appended to, up to {DEFAULT_LIMITS.statements}; or attach a bundle, "
                "which needs no tag",
            )

    def delete(self, principal: Principal, name: str, target: Digest | str) -> None:
        if not self._section.immutable:
            return
        for tag in self._tags_of(name, target):
            if self._immutable(name, tag):
                raise self._refusal(
                    "immutable",
                    f"tag {tag} of {name} is immutable: neither it nor its manifest can be deleted "
                    "while registry.policy.immutable says so",
                )

    def blob(self, principal: Principal, name: str, size: int) -> None:
        with self._counting_refusals("quota"):
            self._quotas.admit(name, size)

    def explain(self, name: str, stored: StoredManifest) -> PullVerdict | None:
        if not self._trust.rules and not self._scans.covers(name):
            return None
        try:
            verdict = self._verdict(name, stored.digest, stored)
        except Problem as problem:
            return PullVerdict(False, "signature", "signatures", problem.message)
        if verdict.accepted and (reason := self._scan_refusal(name, stored)):
            finding, _, cure = reason.partition("; ")
            return PullVerdict(False, "vulnerability", "vulnerabilities", finding, hint=cure)
        facts = verdict.reason, verdict.details, verdict.hint
        return PullVerdict(verdict.accepted, "signature", verdict.rule, *facts)

    def scan(self, name: str, stored: StoredManifest) -> TrustedScan | None:
        if not self._scans.covers(name):
            return None
        try:
            return self._scans.newest(self._evidence(name), name, descriptor_of(stored))
        except ContentError:
            return None

    def on_event(self, event: NodeEvent) -> None:
        """Invalidate verdicts when a statement is pushed, replaced or deleted."""
        if event.kind in ("delete", "untag"):
            self._trust_policy = self._new_trust_policy()
        elif event.kind == "push":
            for subject in filter(None, map(statement_subject, event.tags)):
                self._trust_policy.forget(subject)
            if self._keys and event.media_type in media.NAMED:
                self._evidence(event.repository).mark_proven(Digest.parse(event.digest), self._keys)

    def _new_trust_policy(self) -> TrustPolicy:
        return TrustPolicy(self._trust, clock=self._storage.clock)

    def _verdict(self, name: str, reference: Digest | str, stored: StoredManifest) -> TrustVerdict:
        """Raises Problem 403 if the attached statements cannot be read."""
        source = self._evidence(name)
        tag = reference if isinstance(reference, str) else ""
        image = Reference(self._host, name, tag)
        try:
            return self._trust_policy.verdict(source, image, descriptor_of(stored), source.parents)
        except ContentError as error:
            self._metrics.verdicts.labels("undecided").inc()
            raise self._refusal("signature", f"{name}@{stored.digest}: {error.message}") from None

    def _scan_refusal(self, name: str, stored: StoredManifest) -> str:
        """Why scan results forbid pulling, empty if they do not."""
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

    def _refusal(self, rule: str, message: str) -> Problem:
        self._metrics.refusals.labels(rule).inc()
        return Problem(403, "DENIED", message, detail={"rule": rule})

    @contextmanager
    def _counting_refusals(self, rule: str) -> Iterator[None]:
        try:
            yield
        except Problem:
            self._metrics.refusals.labels(rule).inc()
            raise


def _explain(verdict: TrustVerdict) -> str:
    """The verdict in one line: the rule, what is missing, how to supply it."""
    details = "".join(f"; {line}" for line in verdict.details[:3])
    hint = f"; {verdict.hint}" if verdict.hint else ""
    return f"is not trusted (rule: {verdict.rule}): {verdict.reason}{details}{hint}"


def _for_node(section: AdmissionSection) -> TrustSection | None:
    """The trust rules for the node; without a configured hostname, hosts are not compared."""
    signatures = section.signatures
    if signatures is None or section.hostname:
        return signatures
    rules = tuple(replace(rule, identity=rule.identity.on_any_host()) for rule in signatures.rules)
    return replace(signatures, rules=rules)


def _load_rules(section: AdmissionSection, base: Path) -> list[LoadedRule]:
    named = section.signatures.keys if section.signatures else {}
    return [
        LoadedRule(rule, trusted_keys(rule.keys, named, base, f"vulnerabilities[{number}].keys"))
        for number, rule in enumerate(section.vulnerabilities)
    ]
