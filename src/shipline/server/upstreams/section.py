"""The section `registry.upstreams` of shipline.yaml, and which repositories it maps where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shipline.errors import ConfigError, UsageError
from shipline.globs import Glob, glob
from shipline.net import split_url
from shipline.units import ByteSize, Duration
from shipline.values import doc

_MINUTE, _DAY, _QUARTER_MINUTE = Duration(60_000), Duration(86_400_000), Duration(15_000)
_SILENCE = Duration(20_000)
_HUB = {"docker.io", "index.docker.io", "registry-1.docker.io"}


@dataclass(frozen=True, slots=True)
class UpstreamSection:
    """A registry that this node fetches from, and for which repositories."""

    url: str = field(
        metadata=doc("the registry, https://HOST; a path is put before repository names")
    )
    match: str = field(
        default="*",
        metadata=doc(
            "repositories, as docker.io/*, library/* or *; a * at the end also matches /. "
            "A host at its start is not part of the name at the registry"
        ),
    )
    username: str = field(
        default="", metadata=doc("account there; default: the logins of the node's user")
    )
    password_file: str = field(default="", metadata=doc("file with its password or token"))
    password_variable: str = field(
        default="", metadata=doc("environment variable with its password or token")
    )
    fresh: Duration = field(
        default=_MINUTE, metadata=doc("time in which a tag is served without asking again")
    )
    stale_while_revalidate: Duration | None = field(
        default=None,
        metadata=doc("time after that in which it is served at once, and checked meanwhile"),
    )
    stale_if_error: Duration | None = field(
        default=_DAY,
        metadata=doc(
            "time in which it is served with a Warning while the registry does not answer; "
            "at most 24h, null for none"
        ),
    )
    negative: Duration = field(
        default=_QUARTER_MINUTE, metadata=doc("time in which a 404 is not asked for again")
    )
    timeout: Duration = field(
        default=_SILENCE, metadata=doc("longest silence of the registry in an answer")
    )
    cache_size: ByteSize | None = field(
        default=None,
        metadata=doc("bytes to keep; what was used least recently goes first; default: no cap"),
    )

    def __post_init__(self) -> None:
        try:
            split_url(self.url)
            glob(self.pattern.text)
        except (UsageError, ValueError) as error:
            raise ConfigError(
                f"upstreams: {error}", hint="write url: https://HOST, match: HOST/* or *"
            ) from None
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"upstreams: {self.url!r} does not begin with https:// or http://",
                hint="write the registry as https://HOST",
            )
        if bool(self.username) is not bool(self.password_file or self.password_variable):
            raise ConfigError(
                f"upstream {self.url}: username needs password-file or password-variable"
            )
        if self.password_file and self.password_variable:
            raise ConfigError("set only one of password-file and password-variable")
        if self.stale_if_error is not None and self.stale_if_error > _DAY:
            raise ConfigError(f"upstream {self.url}: stale-if-error is at most 24h")

    @property
    def pattern(self) -> Glob:
        """The repositories of this node."""
        text = self.match.replace(":", "_")
        trailing = text.endswith("*") and not text.endswith("**")
        return Glob(f"{text}*" if trailing else text)

    @property
    def registry(self) -> str:
        """HOST[:PORT] as clients name it in image references."""
        return registry_name(self.url.partition("://")[2].partition("/")[0])

    @property
    def host_prefix(self) -> str:
        """The host that `match` begins with, and a slash; empty if it begins with none."""
        first, slash, _ = self.match.replace(":", "_").partition("/")
        named = slash and re.fullmatch(r"[^*?\[]*\.[^*?\[]*|localhost(_[0-9]+)?", first)
        return f"{first}/" if named else ""

    def origin_name(self, name: str) -> str:
        """The name at the registry of a repository of this node, without the path of `url`."""
        rest = name.removeprefix(self.host_prefix)
        return f"library/{rest}" if self.registry == "docker.io" and "/" not in rest else rest

    def password(self, environ: Mapping[str, str]) -> str:
        """The password of `username`. Raises ConfigError if it is missing."""
        if self.password_variable:
            if not (value := environ.get(self.password_variable)):
                raise ConfigError(
                    f"upstream {self.url}: the variable {self.password_variable} is not set",
                    code="variable-missing",
                )
            return value
        try:
            return Path(self.password_file).read_text().strip()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"upstream {self.url}: cannot read {self.password_file}: {error}",
                code="file-unreadable",
            ) from None


def registry_name(host: str) -> str:
    """The name of a registry in image references: Docker Hub's hosts have one."""
    return "docker.io" if host.lower() in _HUB else host.lower()


def namespace(host: str) -> str:
    """The first component of the names of a registry's repositories here: names have no colons."""
    return registry_name(host).replace(":", "_")
