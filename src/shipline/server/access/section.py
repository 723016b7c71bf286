"""What `registry.access` of shipline.yaml may say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shipline.errors import ConfigError
from shipline.server.access.accounts import RobotPrefix
from shipline.server.limits import Network
from shipline.units import ByteSize, Duration

SHORTEST_S, LONGEST_S = 60, 3600  # life of a token


def _doc(text: str) -> dict[str, str]:
    return {"doc": text}


@dataclass(frozen=True, slots=True)
class TlsSection:
    """Certificates of the node; without them one is made."""

    cert: str = field(default="", metadata=_doc("certificate chain, PEM"))
    key: str = field(default="", metadata=_doc("its private key, PEM"))
    client_ca: str = field(
        default="", metadata=_doc("demand a client certificate that this CA has signed, PEM")
    )
    names: tuple[str, ...] = field(
        default=(), metadata=_doc("host names and addresses of the certificate that is made")
    )
    minimum: Literal["1.2", "1.3"] = field(default="1.2", metadata=_doc("lowest version of TLS"))

    def __post_init__(self) -> None:
        if bool(self.cert) is not bool(self.key):
            raise ConfigError("tls needs both cert and key, or neither")


@dataclass(frozen=True, slots=True)
class AccessSection:
    """Who may use the node, and how they prove who they are."""

    mode: Literal["auto", "accounts", "open"] = field(
        default="auto",
        metadata=_doc("accounts; open to everyone; auto: open on loopback addresses only"),
    )
    open_metrics: bool = field(
        default=False, metadata=_doc("let everybody read /metrics, not only administrators")
    )
    anonymous_pull: bool = field(
        default=True, metadata=_doc("let everybody pull from public projects without an account")
    )
    public_projects: tuple[str, ...] = field(
        default=(), metadata=_doc("projects that are made, public, when the node starts")
    )
    url: str = field(
        default="", metadata=_doc("how clients reach the node, where a proxy is in front of it")
    )
    proxies: tuple[Network, ...] = field(
        default=(), metadata=_doc("proxies whose X-Forwarded-For is believed, as 192.0.2.0/24")
    )
    service: str = field(
        default="shipline", metadata=_doc("name of the node in challenges and tokens")
    )
    challenge: Literal["token", "basic"] = field(
        default="token",
        metadata=_doc("what clients are asked for; basic: for a Docker that ignores certs.d"),
    )
    token_lifetime: Duration = field(
        default=Duration(300_000), metadata=_doc("how long a token lives, 60s to 1h")
    )
    refresh_lifetime: Duration = field(
        default=Duration(90 * 86_400_000), metadata=_doc("how long a refresh token lives")
    )
    robot_prefix: RobotPrefix = field(
        default_factory=RobotPrefix, metadata=_doc("what the login names of robots begin with")
    )
    audit_size: ByteSize = field(
        default=ByteSize(16 << 20),
        metadata=_doc("size of the audit log after which a new file begins"),
    )
    audit_files: int = field(default=10, metadata=_doc("files of the audit log that are kept"))
    audit_pulls: bool = field(default=False, metadata=_doc("write pulls to the audit log too"))
    tls: TlsSection = field(default_factory=TlsSection, metadata=_doc("certificates of the node"))

    def __post_init__(self) -> None:
        if not SHORTEST_S <= self.token_lifetime.seconds <= LONGEST_S:
            raise ConfigError(f"token-lifetime is {SHORTEST_S}s to {LONGEST_S}s")
        if self.audit_files < 1 or self.audit_size.bytes < 4096:
            raise ConfigError("audit-files is at least 1, audit-size at least 4KiB")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url must begin with https:// or http://: {self.url!r}")
