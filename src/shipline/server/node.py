"""The parts of a registry node, put together in one place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

from shipline.server.access import Authenticator, OpenAuthenticator
from shipline.server.admission import Admission, AdmitAll
from shipline.server.http import Request, Response, Route
from shipline.server.journal import EventKind, Listener, NodeEvent
from shipline.server.manifests import Manifests
from shipline.server.metrics import Metrics
from shipline.server.storage import Storage
from shipline.server.uploads import Uploads

_log = logging.getLogger(__name__)
Observer = Callable[[Request, Response, float], None]
"""Called with each request, its answer and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Node:
    """What answers requests. `routes` are tried after the protocol's own."""

    storage: Storage
    uploads: Uploads
    manifests: Manifests
    metrics: Metrics
    guard: Authenticator
    door: Admission
    listeners: tuple[Listener, ...] = ()
    observers: tuple[Observer, ...] = ()
    routes: tuple[Route, ...] = ()
    quick_pulls: bool = True  # neither door nor listeners need the disk for a pull

    @classmethod
    def over(cls, storage: Storage, **parts: Any) -> Self:
        """A node over a data directory: open, without rules, where `parts` say nothing else."""
        uploads = parts.pop("uploads", None) or Uploads(storage)
        defaults: dict[str, Any] = {
            "manifests": Manifests(storage),
            "metrics": Metrics(lambda: uploads.in_flight),
            "guard": OpenAuthenticator(),
            "door": AdmitAll(),
        }
        return cls(storage=storage, uploads=uploads, **(defaults | parts))

    def note(self, request: Request, kind: EventKind, repository: str, **facts: Any) -> None:
        """Tell the listeners what the request did; `facts` are fields of Event."""
        if not self.listeners:
            return
        actor, address = request.identity.actor, request.address
        tell(self.listeners, NodeEvent(kind, repository, actor=actor, address=address, **facts))


def tell(listeners: Iterable[Listener], event: NodeEvent) -> None:
    """What listens never changes what was done: its failures are logged."""
    for listener in listeners:
        try:
            listener.note(event)
        except Exception:
            _log.exception("a listener failed on %s of %s", event.kind, event.repository)
