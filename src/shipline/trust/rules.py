"""The section `trust` of shipline.yaml, and its rules with their keys loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shipline.errors import ConfigError, UsageError
from shipline.oci import Reference
from shipline.supply import (
    OPTIONAL,
    Identity,
    ImagePattern,
    PublicKey,
    predicate_type,
    read_public_key,
)
from shipline.units import Duration
from shipline.values import doc


@dataclass(frozen=True, slots=True)
class PredicateRule:
    """A required attestation."""

    type: str = field(metadata=doc("spdx, cyclonedx, vuln, test-result, ... or a URI."))
    max_age: Duration | None = field(
        default=None, metadata=doc("The maximum age of the statement, by its own time.")
    )


@dataclass(frozen=True, slots=True)
class TrustRule:
    """A rule for the images that match; the first matching rule decides."""

    images: tuple[ImagePattern, ...] = field(
        metadata=doc("Patterns of host/repository: * matches within a component, ** also /.")
    )
    action: Literal["require", "accept", "reject"] = field(
        default="require",
        metadata=doc("require signatures, accept without them, or always reject."),
    )
    keys: tuple[str, ...] = field(
        default=(),
        metadata=doc("Names from trust.keys, paths, or PEM; by default all of trust.keys."),
    )
    threshold: int = field(default=1, metadata=doc("How many different keys must have signed."))
    identity: Identity = field(
        default=OPTIONAL,
        metadata=doc(
            "The name a signature must carry: repository, exact, path, any, a pattern; "
            "optional: this repository's, or none at all."
        ),
    )
    max_age: Duration | None = field(
        default=None, metadata=doc("The maximum age of signatures; one without a time is too old.")
    )
    annotations: Mapping[str, str] = field(
        default_factory=dict, hash=False, metadata=doc("Annotations that signatures must have.")
    )
    predicates: tuple[str | PredicateRule, ...] = field(
        default=(), metadata=doc("Types of required attestations, signed by one of the keys.")
    )

    def __post_init__(self) -> None:
        if not self.images:
            raise ConfigError("images: at least one pattern is required", code="trust-rules")
        if self.threshold < 1:
            raise ConfigError("threshold: at least one key must have signed", code="trust-rules")
        if self.action != "require" and (self.keys or self.predicates):
            raise ConfigError(
                f"action: {self.action} takes no keys or predicates", code="trust-rules"
            )

    @property
    def title(self) -> str:
        """The name of the rule in messages."""
        return f"{self.action} {', '.join(map(str, self.images))}"


@dataclass(frozen=True, slots=True)
class TrustSection:
    """Rules in order. Without rules every image is accepted."""

    rules: tuple[TrustRule, ...] = field(
        default=(), metadata=doc("The first rule that matches an image decides.")
    )
    keys: Mapping[str, str] = field(
        default_factory=dict,
        hash=False,
        metadata=doc("Public keys by name: a path, or PEM in place."),
    )
    default: Literal["accept", "reject"] = field(
        default="reject", metadata=doc("For images that no rule matches.")
    )


_PEM = "-----BEGIN "


@dataclass(frozen=True, slots=True)
class ResolvedRule:
    """A rule of the section with its keys; `predicates` maps URIs to the age in seconds."""

    section: TrustRule
    keys: tuple[PublicKey, ...]
    predicates: Mapping[str, float | None] = field(hash=False)

    def matches(self, name: Reference) -> bool:
        """Whether any of its patterns matches the image."""
        return any(pattern.matches(name) for pattern in self.section.images)


@dataclass(frozen=True, slots=True)
class ResolvedPolicy:
    """The complete policy; `hash` identifies it with its keys, as a key for cached verdicts. With
    `as_podman`, images are judged as by podman and skopeo: each platform by itself, and only by
    signatures in tags.
    """

    rules: tuple[ResolvedRule, ...]
    accepts_others: bool
    hash: str
    as_podman: bool = False

    def rule_for(self, name: Reference) -> ResolvedRule | None:
        """The rule that matches the image; None if `accepts_others` decides."""
        return next((rule for rule in self.rules if rule.matches(name)), None)


NO_TRUST = ResolvedPolicy((), True, "none")
"""Every image is accepted."""


def load_trust(section: TrustSection | None, base: Path) -> ResolvedPolicy:
    """The policy with its keys loaded; paths are relative to `base`. Raises ConfigError with the
    location in the section.
    """
    if section is None or not section.rules:
        return NO_TRUST
    named = {name: _key(text, name, base, f"keys.{name}") for name, text in section.keys.items()}
    rules = tuple(_rule(rule, number, named, base) for number, rule in enumerate(section.rules))
    return ResolvedPolicy(rules, section.default == "accept", _hash(section, rules))


def trusted_keys(
    texts: Iterable[str], named: Mapping[str, str], base: Path, where: str
) -> tuple[PublicKey, ...]:
    """The key with a name in `named`, at a path relative to `base`, or in PEM. Raises
    ConfigError.
    """
    return tuple(_key(named.get(text, text), text, base, where) for text in texts)


def _rule(rule: TrustRule, number: int, named: Mapping[str, PublicKey], base: Path) -> ResolvedRule:
    if rule.action != "require":
        return ResolvedRule(rule, (), {})
    where = f"rules[{number}]"
    keys_found = [
        named[text] if text in named else _key(text, text, base, f"{where}.keys")
        for text in rule.keys
    ]
    keys = tuple(dict.fromkeys(keys_found or named.values()))
    if not keys:
        raise ConfigError(
            f"{where}.keys: signatures are required, but there is no key", code="trust-rules"
        )
    if rule.threshold > len(keys):
        raise ConfigError(
            f"{where}.threshold: {rule.threshold} keys must sign, but there are {len(keys)}",
            code="trust-rules",
        )
    return ResolvedRule(
        rule, keys, dict(_predicate(predicate, where) for predicate in rule.predicates)
    )


def _predicate(predicate: str | PredicateRule, where: str) -> tuple[str, float | None]:
    """The URI of a required type, and how old it may be in seconds."""
    rule = PredicateRule(predicate) if isinstance(predicate, str) else predicate
    try:
        return predicate_type(rule.type), rule.max_age.seconds if rule.max_age else None
    except UsageError as error:
        raise ConfigError(
            f"{where}.predicates: {error.message}", code="trust-rules", hint=error.hint
        ) from error


def _key(text: str, name: str, base: Path, where: str) -> PublicKey:
    try:
        if _PEM in text:
            name = "key" if _PEM in name else name
            return PublicKey.parse(text.encode(), name)
        key = read_public_key(base / text)
        return PublicKey(name, key.der)
    except ConfigError as error:
        raise ConfigError(
            f"{where}: {error.message}", code="trust-rules", hint=error.hint
        ) from error


def _hash(section: TrustSection, rules: tuple[ResolvedRule, ...]) -> str:
    parts: list[Any] = [section.default]
    for rule in rules:
        parts.append(
            {
                "images": [str(image) for image in rule.section.images],
                "action": rule.section.action,
                "keys": [key.id for key in rule.keys],
                "threshold": rule.section.threshold,
                "identity": str(rule.section.identity),
                "max-age": rule.section.max_age and rule.section.max_age.seconds,
                "annotations": dict(rule.section.annotations),
                "predicates": dict(rule.predicates),
            }
        )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
