"""What a collection is told, and what it tells."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from shipline.units import Duration


@dataclass(frozen=True, slots=True)
class Collection:
    """What is collected, and when."""

    every: Duration | None = field(
        default=Duration.parse("1h"),
        metadata={"doc": "Time between two collections; null for none."},
    )
    grace: Duration = field(
        default=Duration.parse("1h"),
        metadata={"doc": "Nothing that was pushed or asked for within this time is collected."},
    )
    untagged: bool = field(
        default=False,
        metadata={"doc": "Collect manifests that no tag, index or subject leads to."},
    )


@dataclass(slots=True)
class Report:
    """What was collected, or would be; `bytes` are those of the files."""

    dry_run: bool = False
    repositories: int = 0
    manifests: int = 0
    tags: int = 0
    blobs: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        return asdict(self)
