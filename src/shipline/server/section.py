"""The section `registry` of shipline.yaml, composed of the sections of the node's parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shipline.errors import ConfigError
from shipline.server.access import AccessSection
from shipline.server.admission.section import AdmissionSection
from shipline.server.cdn.section import CdnSection
from shipline.server.gc import GcOptions
from shipline.server.hooks import WebhookSection
from shipline.server.logs import LogSection
from shipline.server.replication import JournalSection, ReplicationSection
from shipline.server.upstreams.section import UpstreamSection
from shipline.units import ByteSize, Duration
from shipline.values import doc

_HALF_MINUTE, _MINUTE, _DAY = Duration(30_000), Duration(60_000), Duration(86_400_000)
_SLOWEST, _FLOOR = ByteSize(500), ByteSize(256 << 20)


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """Resource limits for clients."""

    connections: int = field(
        default=4096, metadata=doc("simultaneous connections; more wait in the kernel's queue")
    )
    address_connections: int = field(
        default=1024,
        metadata=doc("simultaneous connections of one address, proxies excepted; more are closed"),
    )
    header_timeout: Duration = field(
        default=_HALF_MINUTE,
        metadata=doc("time for the head of a request, and keep-alive time between two"),
    )
    body_timeout: Duration = field(
        default=_HALF_MINUTE, metadata=doc("time over which body-rate is measured")
    )
    body_rate: ByteSize = field(
        default=_SLOWEST,
        metadata=doc("minimum bytes per second of a client that sends or receives"),
    )
    blob_size: ByteSize | None = field(
        default=None, metadata=doc("maximum size of a blob; unlimited by default")
    )
    disk_floor: ByteSize = field(
        default=_FLOOR,
        metadata=doc(
            "free disk space below which /readyz fails and nothing of upstreams is fetched"
        ),
    )
    upload_expiry: Duration = field(
        default=_DAY, metadata=doc("time without new bytes after which an upload is deleted")
    )

    def __post_init__(self) -> None:
        for name in ("connections", "address_connections"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be 1 or more")


@dataclass(frozen=True, slots=True)
class RegistrySection:
    """A registry node; flags of `shipline registry serve` override it."""

    role: Literal["primary", "edge"] | None = field(
        default=None,
        metadata=doc(
            "among regions: a primary keeps a journal for its edges, an edge serves what "
            "other registries have; an edge keeps a journal, too"
        ),
    )
    listen: str = field(default="127.0.0.1:5000", metadata=doc("address to listen on, host:port"))
    data: str = field(default="", metadata=doc("data directory of the node, relative to this file"))
    access: AccessSection = field(
        default_factory=AccessSection, metadata=doc("who may use the node")
    )
    limits: LimitsSection = field(
        default_factory=LimitsSection, metadata=doc("resource limits for clients")
    )
    log: LogSection = field(default_factory=LogSection, metadata=doc("how the node logs"))
    drain_timeout: Duration = field(
        default=_MINUTE, metadata=doc("time for running requests to finish at shutdown")
    )
    policy: AdmissionSection = field(
        default_factory=AdmissionSection, metadata=doc("admission and retention of images")
    )
    collection: GcOptions = field(default_factory=GcOptions, metadata=doc("garbage collection"))
    metadata: Literal["sqlite", "rocksdb"] | None = field(
        default=None, metadata=doc("metadata store of a new data directory")
    )
    webhooks: tuple[WebhookSection, ...] = field(
        default=(), metadata=doc("receivers of the node's events")
    )
    cdn: CdnSection | None = field(
        default=None, metadata=doc("the content delivery network in front of the node")
    )
    cdn_accelerate: bool = field(default=False, metadata=doc("redirect pulls of blobs to the CDN"))
    upstreams: tuple[UpstreamSection, ...] = field(
        default=(),
        metadata=doc("registries whose content is fetched when it is asked for; first match"),
    )
    journal: JournalSection = field(
        default_factory=JournalSection,
        metadata=doc("the journal of changes that a node with a role keeps"),
    )
    replication: tuple[ReplicationSection, ...] = field(
        default=(), metadata=doc("copies from and to other registries")
    )

    def __post_init__(self) -> None:
        for key in ("webhooks", "replication"):
            names = [one.name for one in getattr(self, key)]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ConfigError(f"{key}: the name {min(twice)} is used twice")
        if self.cdn_accelerate and self.cdn is None:
            raise ConfigError(
                "cdn-accelerate: there is no CDN", hint="set registry.cdn.url and registry.cdn.keys"
            )
        patterns = [upstream.match for upstream in self.upstreams]
        if twice := {match for match in patterns if patterns.count(match) > 1}:
            raise ConfigError(f"upstreams: {min(twice)} is matched twice")
