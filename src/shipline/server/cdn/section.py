"""The section `registry.cdn` of shipline.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from shipline.errors import ConfigError
from shipline.globs import Glob
from shipline.server.secrets import read_secret
from shipline.units import ByteSize, Duration
from shipline.values import doc

_ID = re.compile("[A-Za-z0-9_-]{1,64}")
_SHORTEST_S = 10
Form = Literal["shipline", "nginx", "cloudfront"]


@dataclass(frozen=True, slots=True)
class CdnKey:
    """A key that signs URLs. Its secret comes from an environment variable or a file."""

    id: str = field(metadata=doc("id in URLs: letters, digits, - and _; CloudFront's key id"))
    variable: str = field(default="", metadata=doc("environment variable with the secret"))
    file: str = field(default="", metadata=doc("file with the secret"))

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ConfigError(f"id: {self.id!r} must consist of letters, digits, - and _")
        if bool(self.variable) is bool(self.file):
            raise ConfigError(f"key {self.id}: set one of variable and file")

    def secret(self, environ: Mapping[str, str]) -> bytes:
        """Raises ConfigError if it is missing or empty."""
        secret = read_secret(f"cdn key {self.id}", self.variable, self.file, environ)
        if not secret:
            raise ConfigError(f"cdn key {self.id}: {self.file} is empty")
        return secret


@dataclass(frozen=True, slots=True)
class CdnSection:
    """A content delivery network in front of the node."""

    url: str = field(metadata=doc("URL of the CDN, which has the paths of the node"))
    keys: tuple[CdnKey, ...] = field(
        metadata=doc("the first signs URLs, the others are still accepted")
    )
    form: Form = field(
        default="shipline",
        metadata=doc(
            "how URLs are signed: HMAC-SHA256, which the node verifies; nginx: secure_link; "
            "cloudfront: policies of CloudFront"
        ),
    )
    expiry: Duration = field(
        default=Duration(1_200_000),
        metadata=doc("longest time for which a URL is valid; half of it at least"),
    )
    address_range: Literal["none", "address", "network"] = field(
        default="none",
        metadata=doc("bind URLs to the client's address, or its /24 or, for IPv6, /64"),
    )
    repositories: tuple[Glob, ...] = field(
        default=(Glob("**"),), metadata=doc("redirect pulls from these repositories")
    )
    minimum_size: ByteSize = field(
        default=ByteSize(1 << 20), metadata=doc("smallest blob to redirect for")
    )
    account: str = field(
        default="", metadata=doc("account with which the CDN itself pulls; required for cloudfront")
    )
    purge_keep: Duration = field(
        default=Duration(30 * 86_400_000),
        metadata=doc("time for which removed content stays in the purge list"),
    )

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ConfigError(
                f"url: {self.url!r} must be https://HOST or http://HOST, without a path"
            )
        ids = [key.id for key in self.keys]
        if not ids or len(set(ids)) < len(ids):
            raise ConfigError("keys: one key at least is needed, and each needs an id of its own")
        if self.expiry.seconds < _SHORTEST_S:
            raise ConfigError(f"expiry: must be {_SHORTEST_S}s or more")
        if self.form == "nginx" and self.address_range == "network":
            raise ConfigError("address-range: secure_link knows only the address of the client")
        if self.form == "cloudfront" and not self.account:
            raise ConfigError(
                "account: CloudFront removes the signature before it asks the node",
                hint="create a robot that may pull, and have CloudFront send its credentials as a "
                "custom header: Authorization: Basic ...",
            )

    def covers(self, repository: str) -> bool:
        """Whether pulls from the repository are redirected."""
        return any(pattern.matches(repository) for pattern in self.repositories)
