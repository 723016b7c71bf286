"""The section `registry.policy` of shipline.yaml: what may come in, stay, and go out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shipline.errors import ConfigError
from shipline.globs import Glob
from shipline.trust import TrustSection
from shipline.units import ByteSize, Day, Duration

EVERYWHERE = (Glob("**"),)
Level = Literal["low", "medium", "high", "critical"]


_REPOSITORIES = "Patterns of repositories: * is a part of a component, ** crosses /."


@dataclass(frozen=True, slots=True)
class ImmutableRule:
    """Tags that, once they are there, neither move nor go."""

    tags: tuple[Glob, ...] = field(metadata={"doc": "Patterns of tags, such as v*."})
    repositories: tuple[Glob, ...] = field(default=EVERYWHERE, metadata={"doc": _REPOSITORIES})
    unless: tuple[Glob, ...] = field(
        default=(), metadata={"doc": "Tags that the rule leaves alone."}
    )

    def covers(self, name: str, tag: str) -> bool:
        return (
            any_of(self.repositories, name)
            and any_of(self.tags, tag)
            and not any_of(self.unless, tag)
        )


@dataclass(frozen=True, slots=True)
class Quota:
    """How much the repositories below a project may hold together."""

    project: str = field(
        metadata={"doc": "A project: the first part of names, or more of it; * is each of them."}
    )
    size: ByteSize | None = field(
        default=None, metadata={"doc": "Bytes of blobs and manifests, in each repository once."}
    )
    tags: int | None = field(default=None, metadata={"doc": "Number of tags."})

    def __post_init__(self) -> None:
        if self.size is None and self.tags is None:
            raise ConfigError("say what is limited: size or tags")


@dataclass(frozen=True, slots=True)
class Allowed:
    """A vulnerability that is accepted for some time."""

    id: str = field(metadata={"doc": "CVE-..., GHSA-... or another identifier."})
    until: Day = field(metadata={"doc": "The last day on which it is accepted."})
    reason: str = field(metadata={"doc": "Why, for whoever reads this later."})


@dataclass(frozen=True, slots=True)
class VulnerabilityRule:
    """Images go out only with a signed scan result that is good enough."""

    keys: tuple[str, ...] = field(
        metadata={"doc": "Public keys of scanners: names from signatures.keys, paths or PEM."}
    )
    repositories: tuple[Glob, ...] = field(default=EVERYWHERE, metadata={"doc": _REPOSITORIES})
    refuse: Level = field(
        default="critical", metadata={"doc": "The least severity that is refused."}
    )
    fixable_only: bool = field(
        default=False, metadata={"doc": "Leave vulnerabilities alone that have no fix."}
    )
    max_age: Duration | None = field(default=None, metadata={"doc": "How old a scan may be."})
    allow: tuple[Allowed, ...] = field(
        default=(), metadata={"doc": "Vulnerabilities that are accepted for some time."}
    )

    def __post_init__(self) -> None:
        if not self.keys:
            raise ConfigError(
                "keys: a scan result that nobody signed can be attached by anyone who may push"
            )


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Which of the tags that match are kept: all that one of the conditions names."""

    repositories: tuple[Glob, ...] = field(default=EVERYWHERE, metadata={"doc": _REPOSITORIES})
    tags: tuple[Glob, ...] = field(
        default=EVERYWHERE, metadata={"doc": "The tags that the rule is about."}
    )
    keep: tuple[Glob, ...] = field(default=(), metadata={"doc": "Tags that are always kept."})
    latest: int | None = field(default=None, metadata={"doc": "Keep this many, those pushed last."})
    within: Duration | None = field(
        default=None, metadata={"doc": "Keep those pushed within this time."}
    )

    def __post_init__(self) -> None:
        if self.latest is None and self.within is None:
            raise ConfigError("say what is kept: latest or within")
        if self.latest is not None and self.latest < 0:
            raise ConfigError("latest: a number of tags, not negative")


@dataclass(frozen=True, slots=True)
class AdmissionSection:
    """Rules of a node about the images in it."""

    immutable: tuple[ImmutableRule, ...] = field(
        default=(), metadata={"doc": "Tags that cannot be moved or deleted."}
    )
    quotas: tuple[Quota, ...] = field(default=(), metadata={"doc": "Limits of projects."})
    signatures: TrustSection | None = field(
        default=None, metadata={"doc": "Which images go out only with signatures."}
    )
    vulnerabilities: tuple[VulnerabilityRule, ...] = field(
        default=(), metadata={"doc": "What scan results must say."}
    )
    retention: tuple[RetentionRule, ...] = field(
        default=(), metadata={"doc": "Tags that are removed after some time."}
    )
    hostname: str = field(
        default="",
        metadata={
            "doc": "host[:port] under which clients know this node; signatures must carry it where "
            "a rule says identity: repository. Without it the repository alone is compared."
        },
    )
    retention_every: Duration = field(
        default=Duration(86_400_000), metadata={"doc": "How often retention runs."}
    )

    def __post_init__(self) -> None:
        """Rules about nothing are a mistake: without them everything goes out."""
        trust = self.signatures
        if trust and not trust.rules and (not trust.keys or not self.vulnerabilities):
            raise ConfigError(
                "signatures: without rules every image goes out",
                hint="to refuse all that is unsigned: rules: [{images: ['**']}]",
            )


def any_of(patterns: tuple[Glob, ...], name: str) -> bool:
    """Whether one of the patterns is that of `name`."""
    return any(pattern.matches(name) for pattern in patterns)
