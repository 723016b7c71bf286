"""The section `registry.webhooks` of shipline.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shipline.errors import ConfigError
from shipline.globs import Glob
from shipline.server.events import NodeEvent
from shipline.server.hooks.outbound import DeliveryTarget
from shipline.server.secrets import read_secret
from shipline.units import Duration
from shipline.values import doc

_ATTEMPT, _THREE_DAYS = Duration(10_000), Duration(259_200_000)
_BLOB_TYPE = "application/octet-stream"
_NAME = re.compile("[a-z0-9][a-z0-9-]{0,62}")
SentEvent = Literal["push", "pull", "delete", "untag", "mount", "refused", "quota"]


@dataclass(frozen=True, slots=True)
class WebhookSection:
    """A webhook receiver. Its secret comes from a file or environment variable."""

    name: str = field(metadata=doc("name in logs and metrics: a-z, 0-9 and -"))
    url: str = field(metadata=doc("URL to send events to, https:// or http://"))
    events: tuple[SentEvent, ...] = field(
        default=("push", "delete", "untag"), metadata=doc("events to send")
    )
    blobs: bool = field(
        default=False, metadata=doc("also send pushes of blobs, not only of manifests")
    )
    repositories: tuple[Glob, ...] = field(
        default=(Glob("**"),), metadata=doc("only events of these repositories")
    )
    format: Literal["docker", "cloudevents", "harbor"] = field(
        default="docker",
        metadata=doc(
            "docker: the notifications of docker-registry; CloudEvents 1.0; Harbor's payload"
        ),
    )
    secret_file: str = field(default="", metadata=doc("file with the key for signing requests"))
    secret_variable: str = field(
        default="", metadata=doc("environment variable with the key for signing requests")
    )
    allow: tuple[str, ...] = field(
        default=(), metadata=doc("non-public networks and addresses that the host may resolve to")
    )
    timeout: Duration = field(default=_ATTEMPT, metadata=doc("timeout of one attempt"))
    keep: Duration = field(
        default=_THREE_DAYS, metadata=doc("time after which an undelivered event is given up")
    )

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name: {self.name!r} must consist of a-z, 0-9 and -")
        if self.secret_file and self.secret_variable:
            raise ConfigError("set only one of secret-file and secret-variable")
        DeliveryTarget.parse(self.url, self.allow)

    def matches(self, event: NodeEvent) -> bool:
        """Whether this event is sent to the receiver."""
        if event.kind not in self.events or (event.media_type == _BLOB_TYPE and not self.blobs):
            return False
        return any(pattern.matches(event.repository) for pattern in self.repositories)

    def secret(self, environ: Mapping[str, str]) -> bytes:
        """The signing key, empty if none is configured. Raises ConfigError if it is missing."""
        owner = f"webhook {self.name}"
        return read_secret(owner, self.secret_variable, self.secret_file, environ)
