"""What `registry.webhooks` of shipline.yaml may say: who is told, of what, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shipline.errors import ConfigError
from shipline.globs import Glob
from shipline.server.hooks.outbound import DeliveryTarget
from shipline.server.journal import NodeEvent
from shipline.units import Duration

_ATTEMPT, _THREE_DAYS = Duration(10_000), Duration(259_200_000)
_BLOB = "application/octet-stream"
_NAME = re.compile("[a-z0-9][a-z0-9-]{0,62}")
Told = Literal["push", "pull", "delete", "untag", "mount", "refused", "quota"]


@dataclass(frozen=True, slots=True)
class WebhookSection:
    """One receiver. Its secret is read from a file or a variable, never written here."""

    name: str = field(metadata={"doc": "what logs and metrics call it: a-z, 0-9 and -"})
    url: str = field(metadata={"doc": "where requests go, https:// or http://"})
    events: tuple[Told, ...] = field(
        default=("push", "delete", "untag"), metadata={"doc": "events that are sent"}
    )
    blobs: bool = field(
        default=False, metadata={"doc": "tell of pushed blobs too, not only of manifests"}
    )
    repositories: tuple[Glob, ...] = field(
        default=(Glob("**"),), metadata={"doc": "only of these repositories"}
    )
    format: Literal["docker", "cloudevents", "harbor"] = field(
        default="docker",
        metadata={
            "doc": "docker: the notifications of docker-registry; CloudEvents 1.0; Harbor's payload"
        },
    )
    secret_file: str = field(
        default="", metadata={"doc": "file with the key that signs the requests"}
    )
    secret_variable: str = field(
        default="", metadata={"doc": "variable with the key that signs the requests"}
    )
    allow: tuple[str, ...] = field(
        default=(),
        metadata={"doc": "networks and addresses, beside public ones, that the name may lead to"},
    )
    timeout: Duration = field(default=_ATTEMPT, metadata={"doc": "time for one attempt"})
    keep: Duration = field(
        default=_THREE_DAYS, metadata={"doc": "time after which an event is given up"}
    )

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name: {self.name!r} is not made of a-z, 0-9 and -")
        if self.secret_file and self.secret_variable:
            raise ConfigError("secret-file: secret-variable is there too; keep one")
        DeliveryTarget.parse(self.url, self.allow)

    def wants(self, event: NodeEvent) -> bool:
        """Whether the receiver is to be told of this event."""
        if event.kind not in self.events or (event.media_type == _BLOB and not self.blobs):
            return False
        return any(pattern.matches(event.repository) for pattern in self.repositories)

    def secret(self, environ: Mapping[str, str]) -> bytes:
        """The key, empty where there is none. Raises ConfigError where it cannot be had."""
        if self.secret_variable:
            if not (value := environ.get(self.secret_variable)):
                raise ConfigError(
                    f"webhook {self.name}: the variable {self.secret_variable} is not set"
                )
            return value.encode()
        if not self.secret_file:
            return b""
        try:
            return Path(self.secret_file).read_bytes().strip()
        except OSError as error:
            raise ConfigError(
                f"webhook {self.name}: cannot read {self.secret_file}: {error.strerror}"
            ) from None
