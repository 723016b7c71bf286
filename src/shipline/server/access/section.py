"""The section `registry.access` of shipline.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shipline.errors import ConfigError
from shipline.server.access.accounts import RobotPrefix
from shipline.server.limits import Network
from shipline.units import ByteSize, Duration
from shipline.values import doc

SHORTEST_S, LONGEST_S = 60, 3600  # lifetime of a token


@dataclass(frozen=True, slots=True)
class TlsSection:
    """TLS certificate of the node; generated if not configured."""

    cert: str = field(default="", metadata=doc("certificate chain, PEM"))
    key: str = field(default="", metadata=doc("its private key, PEM"))
    client_ca: str = field(
        default="", metadata=doc("require client certificates signed by this CA, PEM")
    )
    names: tuple[str, ...] = field(
        default=(), metadata=doc("host names and addresses for the generated certificate")
    )
    minimum: Literal["1.2", "1.3"] = field(default="1.2", metadata=doc("minimum TLS version"))

    def __post_init__(self) -> None:
        if bool(self.cert) is not bool(self.key):
            raise ConfigError(
                "tls: a certificate needs its key, and a key its certificate",
                hint="set both cert and key (--tls-cert, --tls-key), or neither",
            )


@dataclass(frozen=True, slots=True)
class AccessSection:
    """Who may use the node, and how clients authenticate."""

    mode: Literal["auto", "accounts", "open"] = field(
        default="auto",
        metadata=doc("accounts; open to everyone; auto: open on loopback addresses only"),
    )
    open_metrics: bool = field(
        default=False, metadata=doc("let everyone read /metrics, not only administrators")
    )
    anonymous_pull: bool = field(
        default=True, metadata=doc("let clients without an account pull from public projects")
    )
    public_projects: tuple[str, ...] = field(
        default=(), metadata=doc("public projects to create at start")
    )
    url: str = field(
        default="", metadata=doc("URL by which clients reach the node, if behind a proxy")
    )
    proxies: tuple[Network, ...] = field(
        default=(), metadata=doc("proxies whose X-Forwarded-For is trusted, as 192.0.2.0/24")
    )
    service: str = field(
        default="shipline", metadata=doc("name of the node in challenges and tokens")
    )
    challenge: Literal["token", "basic"] = field(
        default="token",
        metadata=doc("authentication scheme; basic: for a Docker that ignores certs.d"),
    )
    token_lifetime: Duration = field(
        default=Duration(300_000), metadata=doc("lifetime of a token, 60s to 1h")
    )
    refresh_lifetime: Duration = field(
        default=Duration(90 * 86_400_000), metadata=doc("lifetime of a refresh token")
    )
    robot_prefix: RobotPrefix = field(
        default_factory=RobotPrefix, metadata=doc("prefix of robots' login names")
    )
    audit_size: ByteSize = field(
        default=ByteSize(16 << 20), metadata=doc("size at which the audit log is rotated")
    )
    audit_files: int = field(default=10, metadata=doc("audit log files to keep"))
    audit_pulls: bool = field(default=False, metadata=doc("also write pulls to the audit log"))
    tls: TlsSection = field(default_factory=TlsSection, metadata=doc("certificates of the node"))

    def __post_init__(self) -> None:
        if not SHORTEST_S <= self.token_lifetime.seconds <= LONGEST_S:
            raise ConfigError(f"token-lifetime must be from {SHORTEST_S}s to {LONGEST_S}s")
        if self.audit_files < 1 or self.audit_size.bytes < 4096:
            raise ConfigError("audit-files must be at least 1, and audit-size at least 4KiB")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url must begin with https:// or http://: {self.url!r}")
