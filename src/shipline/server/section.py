"""The section `registry` of shipline.yaml: a node, put together from what its parts may be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shipline.errors import ConfigError
from shipline.server.access import AccessSection
from shipline.server.admission.section import AdmissionSection
from shipline.server.gc import GcOptions
from shipline.server.hooks import WebhookSection
from shipline.server.logs import LogSection
from shipline.units import ByteSize, Duration

_HALF_MINUTE, _MINUTE, _DAY = Duration(30_000), Duration(60_000), Duration(86_400_000)
_SLOWEST, _FLOOR = ByteSize(500), ByteSize(256 << 20)


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """What clients may use up."""

    connections: int = field(
        default=4096, metadata={"doc": "connections at once; more wait until one is free"}
    )
    address_connections: int = field(
        default=1024,
        metadata={"doc": "connections at once of one address that is no proxy; more are ended"},
    )
    header_timeout: Duration = field(
        default=_HALF_MINUTE,
        metadata={"doc": "time for the head of a request, and between two on one connection"},
    )
    body_timeout: Duration = field(
        default=_HALF_MINUTE,
        metadata={"doc": "time over which body-rate must be reached"},
    )
    body_rate: ByteSize = field(
        default=_SLOWEST, metadata={"doc": "bytes a second that a client must send or take"}
    )
    blob_size: ByteSize | None = field(
        default=None, metadata={"doc": "the largest blob; none: as large as the disk"}
    )
    disk_floor: ByteSize = field(
        default=_FLOOR, metadata={"doc": "free space below which /readyz says no"}
    )
    upload_expiry: Duration = field(
        default=_DAY, metadata={"doc": "time without a new byte after which an upload is dropped"}
    )

    def __post_init__(self) -> None:
        for name in ("connections", "address_connections"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be 1 or more")


@dataclass(frozen=True, slots=True)
class RegistrySection:
    """A registry node; flags of `shipline registry serve` come before what is written here."""

    listen: str = field(default="127.0.0.1:5000", metadata={"doc": "where to listen, host:port"})
    data: str = field(
        default="", metadata={"doc": "the directory of the node; relative to this file"}
    )
    access: AccessSection = field(
        default_factory=AccessSection, metadata={"doc": "who may use the node"}
    )
    limits: LimitsSection = field(
        default_factory=LimitsSection, metadata={"doc": "what clients may use up"}
    )
    log: LogSection = field(default_factory=LogSection, metadata={"doc": "what the node writes"})
    drain_timeout: Duration = field(
        default=_MINUTE,
        metadata={"doc": "time that running requests have to end when the node stops"},
    )
    policy: AdmissionSection = field(
        default_factory=AdmissionSection, metadata={"doc": "what may come in, stay and go out"}
    )
    collection: GcOptions = field(
        default_factory=GcOptions, metadata={"doc": "what is collected, and when"}
    )
    metadata: Literal["sqlite", "rocksdb"] | None = field(
        default=None, metadata={"doc": "the store of the records of a new data directory"}
    )
    webhooks: tuple[WebhookSection, ...] = field(
        default=(), metadata={"doc": "receivers of the node's events"}
    )

    def __post_init__(self) -> None:
        names = [hook.name for hook in self.webhooks]
        if len(set(names)) < len(names):
            raise ConfigError("webhooks: two have the same name")
