"""The section `registry.policy` of shipline.yaml: admission and retention of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shipline.errors import ConfigError
from shipline.globs import Glob
from shipline.trust import TrustSection
from shipline.units import ByteSize, Day, Duration
from shipline.values import doc

EVERYWHERE = (Glob("**"),)
Level = Literal["low", "medium", "high", "critical"]


_REPOSITORIES = "Patterns of repositories: * matches within a path component, ** across /."


@dataclass(frozen=True, slots=True)
class ImmutableRule:
    """Tags that can be neither moved nor deleted."""

    tags: tuple[Glob, ...] = field(metadata=doc("Patterns of tags, such as v*."))
    repositories: tuple[Glob, ...] = field(default=EVERYWHERE, metadata=doc(_REPOSITORIES))
    unless: tuple[Glob, ...] = field(
        default=(), metadata=doc("Tags that the rule does not apply to.")
    )

    def covers(self, name: str, tag: str) -> bool:
        return (
            matches_any(self.repositories, name)
            and matches_any(self.tags, tag)
            and not matches_any(self.unless, tag)
        )


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits for all repositories of a project together."""

    project: str = field(
        metadata=doc("First component of repository names, or a longer prefix; * for each.")
    )
    size: ByteSize | None = field(
        default=None, metadata=doc("Bytes of blobs and manifests, counted once per repository.")
    )
    tags: int | None = field(default=None, metadata=doc("Number of tags."))

    def __post_init__(self) -> None:
        if self.size is None and self.tags is None:
            raise ConfigError("set size or tags")


@dataclass(frozen=True, slots=True)
class AcceptedVulnerability:
    """A vulnerability that is accepted for a limited time."""

    id: str = field(metadata=doc("CVE-..., GHSA-... or another identifier."))
    until: Day = field(metadata=doc("The last day on which it is accepted."))
    reason: str = field(metadata=doc("Why it is accepted."))


@dataclass(frozen=True, slots=True)
class VulnerabilityRule:
    """Images can be pulled only with an acceptable signed scan result."""

    keys: tuple[str, ...] = field(
        metadata=doc("Public keys of scanners: names from signatures.keys, paths or PEM.")
    )
    repositories: tuple[Glob, ...] = field(default=EVERYWHERE, metadata=doc(_REPOSITORIES))
    refuse: Level = field(default="critical", metadata=doc("The lowest severity that is refused."))
    fixable_only: bool = field(default=False, metadata=doc("Ignore vulnerabilities without a fix."))
    max_age: Duration | None = field(default=None, metadata=doc("Maximum age of a scan."))
    allow: tuple[AcceptedVulnerability, ...] = field(
        default=(), metadata=doc("Vulnerabilities that are accepted for a limited time.")
    )

    def __post_init__(self) -> None:
        if not self.keys:
            raise ConfigError("keys: needed, since anyone who may push can attach an unsigned scan")


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Which of the matching tags are kept: those that meet any condition."""

    repositories: tuple[Glob, ...] = field(default=EVERYWHERE, metadata=doc(_REPOSITORIES))
    tags: tuple[Glob, ...] = field(
        default=EVERYWHERE, metadata=doc("The tags that the rule applies to.")
    )
    keep: tuple[Glob, ...] = field(default=(), metadata=doc("Tags that are always kept."))
    latest: int | None = field(
        default=None, metadata=doc("Keep this many of the most recently pushed.")
    )
    within: Duration | None = field(
        default=None, metadata=doc("Keep those pushed within this time.")
    )

    def __post_init__(self) -> None:
        if self.latest is None and self.within is None:
            raise ConfigError("set latest or within")
        if self.latest is not None and self.latest < 0:
            raise ConfigError("latest: must not be negative")


@dataclass(frozen=True, slots=True)
class AdmissionSection:
    """Admission and retention rules of a node."""

    immutable: tuple[ImmutableRule, ...] = field(
        default=(), metadata=doc("Tags that cannot be moved or deleted.")
    )
    quotas: tuple[Quota, ...] = field(default=(), metadata=doc("Limits of projects."))
    signatures: TrustSection | None = field(
        default=None, metadata=doc("Which images can be pulled only if signed.")
    )
    vulnerabilities: tuple[VulnerabilityRule, ...] = field(
        default=(), metadata=doc("Which images can be pulled only with an acceptable scan result.")
    )
    retention: tuple[RetentionRule, ...] = field(
        default=(), metadata=doc("Which tags are removed after some time.")
    )
    hostname: str = field(
        default="",
        metadata=doc(
            "host[:port] under which clients know this node; signatures must carry it where "
            "a rule says identity: repository. Without it the repository alone is compared."
        ),
    )
    retention_every: Duration = field(
        default=Duration(86_400_000), metadata=doc("How often retention runs.")
    )

    def __post_init__(self) -> None:
        """Raises ConfigError for a trust section without rules: it would admit everything."""
        trust = self.signatures
        if trust and not trust.rules and (not trust.keys or not self.vulnerabilities):
            raise ConfigError(
                "signatures: without rules every image can be pulled",
                hint="to refuse every unsigned image: rules: [{images: ['**']}]",
            )


def matches_any(patterns: tuple[Glob, ...], name: str) -> bool:
    """Whether any pattern matches `name`."""
    return any(pattern.matches(name) for pattern in patterns)
