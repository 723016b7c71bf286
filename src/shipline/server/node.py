"""The parts of a registry node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from shipline.server.access import AccountAccess, Authenticator, OpenAuthenticator
from shipline.server.admission import Admission, AdmitAll
from shipline.server.cdn import Cdn
from shipline.server.events import EventKind, Listener, NodeEvent
from shipline.server.http import Request, Response, Route
from shipline.server.manifests import Manifests
from shipline.server.metrics import Metrics
from shipline.server.problems import Problem
from shipline.server.storage import Storage
from shipline.server.uploads import UploadStore
from shipline.server.upstreams.pull_through import PullThrough

if TYPE_CHECKING:
    from shipline.server.admission.section import RetentionRule
    from shipline.server.jobs import Job
    from shipline.server.replication import RegionState, ReplicationSection
    from shipline.telemetry.server_spans import ServerSpans

_log = logging.getLogger(__name__)
Observer = Callable[[Request, Response, float], None]
"""Called with each request, its response and the seconds it took."""


@dataclass(frozen=True, slots=True)
class RegistryNode:
    """The parts that handle requests; `routes` are tried after the protocol's own."""

    storage: Storage
    uploads: UploadStore
    manifests: Manifests
    metrics: Metrics
    authenticator: Authenticator
    admission: Admission
    listeners: tuple[Listener, ...] = ()
    observers: tuple[Observer, ...] = ()
    routes: tuple[Route, ...] = ()
    cdn: Cdn | None = None
    pull_through: PullThrough | None = None
    replications: tuple[ReplicationSection, ...] = ()
    spans: ServerSpans | None = None
    pulls_in_loop: bool = True  # pulls touch no disk: no rules, no listeners for them
    accounts: AccountAccess | None = None  # None for a node without
    retention: tuple[RetentionRule, ...] = ()
    retention_job: Job | None = None
    regions: Callable[[], list[RegionState]] | None = None  # None for a node without a journal

    @classmethod
    def over(cls, storage: Storage, **parts: Any) -> Self:
        """A node over a data directory; by default open, without admission rules."""
        uploads = parts.pop("uploads", None) or UploadStore(storage)
        defaults: dict[str, Any] = {
            "manifests": Manifests(storage),
            "metrics": Metrics(lambda: uploads.in_flight),
            "authenticator": OpenAuthenticator(),
            "admission": AdmitAll(),
        }
        return cls(storage=storage, uploads=uploads, **(defaults | parts))

    def refuse_push(self, name: str) -> None:
        """Raises Problem 405 for a repository of an upstream, or one that is replicated from
        another registry.
        """
        if self.pull_through is not None:
            self.pull_through.refuse_push(name)
        for section in self.replications:
            if section.replaces(name):
                raise _not_here(section, name, "push to")

    def refuse_delete(self, name: str) -> None:
        """Raises Problem 405 for a repository that is replicated with its deletions."""
        for section in self.replications:
            if section.replaces(name) and section.deletes:
                raise _not_here(section, name, "delete in")

    def publish(self, request: Request, kind: EventKind, repository: str, **facts: Any) -> None:
        """Publish an event of a request; `facts` are fields of NodeEvent."""
        if not self.listeners:
            return
        actor, address = request.principal.actor, request.address
        publish(self.listeners, NodeEvent(kind, repository, actor=actor, address=address, **facts))


def _not_here(section: ReplicationSection, name: str, what: str) -> Problem:
    host, prefix = section.remote
    message = f"{name} is replicated from {host}; {what} {host}/{prefix}{name}"
    return Problem(405, "UNSUPPORTED", message, headers=(("Allow", "GET, HEAD"),))


def publish(listeners: Iterable[Listener], event: NodeEvent) -> None:
    """Deliver an event; a failing listener is only logged."""
    for listener in listeners:
        try:
            listener.on_event(event)
        except Exception:
            _log.exception("event listener failed: %s of %s", event.kind, event.repository)
