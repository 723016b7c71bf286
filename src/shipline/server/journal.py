"""What happened at the node, told to whoever listens."""

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
    """One thing that is done, or was refused; `at` in seconds of Unix time, `size` in bytes.

    `push`: a manifest or blob arrived, with its `tags`. `pull`: a manifest went out. `refused`,
    `login` and `account` say in `message` what was refused, how a login ended, what changed.
    `collect`: a collection or retention has ended, with what it did in `message`.
    `ping` is nothing at all, for an operator who tries a webhook.
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


Tell = Callable[[NodeEvent], object]
"""Lets those who listen know."""


class Listener(Protocol):
    def note(self, event: NodeEvent) -> None:
        """Take notice. Called by the thread of the request, after the change is on the disk: be
        quick; an exception is logged and the request goes on.
        """
