"""The section `trust` of shipline.yaml: which images need which signatures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shipline.errors import ConfigError
from shipline.supply import OPTIONAL, Identity, ImagePattern
from shipline.units import Duration


@dataclass(frozen=True, slots=True)
class PredicateRule:
    """An attestation that must be there."""

    type: str = field(metadata={"doc": "spdx, cyclonedx, vuln, test-result, ... or a URI."})
    max_age: Duration | None = field(
        default=None, metadata={"doc": "How old the statement may be, by the time it states."}
    )


@dataclass(frozen=True, slots=True)
class TrustRule:
    """What holds for the images that match; the first rule that matches an image decides."""

    images: tuple[ImagePattern, ...] = field(
        metadata={"doc": "Patterns of host/repository: * is a part of a component, ** crosses /."}
    )
    action: Literal["require", "accept", "reject"] = field(
        default="require", metadata={"doc": "require signatures, accept without, or reject always."}
    )
    keys: tuple[str, ...] = field(
        default=(),
        metadata={"doc": "Names from trust.keys, paths, or PEM. Empty: all of trust.keys."},
    )
    threshold: int = field(default=1, metadata={"doc": "How many different keys must have signed."})
    identity: Identity = field(
        default=OPTIONAL,
        metadata={
            "doc": "The name a signature must carry: repository, exact, path, any, a pattern; "
            "optional: this repository's, or none at all."
        },
    )
    max_age: Duration | None = field(
        default=None,
        metadata={"doc": "How old a signature may be; one that states no time is too old."},
    )
    annotations: Mapping[str, str] = field(
        default_factory=dict,
        hash=False,
        metadata={"doc": "An annotation that a signature must carry."},
    )
    predicates: tuple[str | PredicateRule, ...] = field(
        default=(),
        metadata={"doc": "Types of attestations that must be there, signed by one of the keys."},
    )

    def __post_init__(self) -> None:
        if not self.images:
            raise ConfigError("images: name at least one pattern")
        if self.threshold < 1:
            raise ConfigError("threshold: at least one key must have signed")
        if self.action != "require" and (self.keys or self.predicates):
            raise ConfigError(f"action: {self.action} does not look at keys or predicates")

    @property
    def title(self) -> str:
        """How messages name the rule."""
        return f"{self.action} {', '.join(map(str, self.images))}"


@dataclass(frozen=True, slots=True)
class TrustSection:
    """Rules in order. Without rules every image is accepted."""

    rules: tuple[TrustRule, ...] = field(
        default=(), metadata={"doc": "The first rule that matches an image decides."}
    )
    keys: Mapping[str, str] = field(
        default_factory=dict,
        hash=False,
        metadata={"doc": "Public keys by name: a path, or PEM in place."},
    )
    default: Literal["accept", "reject"] = field(
        default="reject", metadata={"doc": "For images that no rule matches."}
    )
