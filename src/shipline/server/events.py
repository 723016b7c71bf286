"""Events of the node, and those who listen to them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

EventKind = Literal[
    "push",
    "pull",
    "delete",
    "tag",
    "untag",
    "mount",
    "refused",
    "login",
    "account",
    "quota",
    "collect",
    "ping",
]


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """One thing that was done or refused; `at` in Unix seconds, `size` in bytes.

    `push`: a manifest or blob arrived, with its `tags`. `pull`: a manifest was sent. `refused`,
    `login` and `account`: `message` says what was refused, how the login ended, what changed.
    `collect`: a garbage collection or retention run ended, summarized in `message`. `ping`: a test
    of a webhook.
    """

    kind: EventKind
    repository: str = ""
    digest: str = ""
    tags: tuple[str, ...] = ()
    media_type: str = ""
    size: int = 0
    actor: str = ""
    address: str = ""
    message: str = ""
    at: float = field(default_factory=time.time)


Publish = Callable[[NodeEvent], object]
"""Delivers an event to the listeners."""


class Listener(Protocol):
    """Gets the events of the node."""

    def on_event(self, event: NodeEvent) -> None:
        """Called on the request's thread once the change is durable: be quick. An exception is
        logged and the request goes on.
        """
