"""A node put together from its section: every part is made and connected here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from shipline.server.access import Entrance
from shipline.server.health import Health, health_routes
from shipline.server.hooks import Webhooks
from shipline.server.instruments import Readings
from shipline.server.logs import log_request
from shipline.server.metrics import Metrics
from shipline.server.node import Node
from shipline.server.section import RegistrySection
from shipline.server.storage import Storage
from shipline.server.uploads import Uploads
from shipline.server.warming import Warmer


@dataclass(frozen=True, slots=True)
class Assembly:
    """What answers requests, and the parts that have threads or a life of their own."""

    node: Node
    health: Health
    hooks: Webhooks
    warmer: Warmer

    @classmethod
    def of(
        cls,
        storage: Storage,
        uploads: Uploads,
        entrance: Entrance,
        section: RegistrySection,
        environ: Mapping[str, str],
    ) -> Self:
        """Raises ConfigError for a secret that is not there."""
        health = Health(storage, section.limits.disk_floor.bytes)
        metrics = Metrics(lambda: uploads.in_flight)
        hooks = Webhooks(
            storage.records, section.webhooks, environ=environ, sent=metrics.deliveries.add
        )
        warmer = Warmer(storage.store.path, lambda: uploads.in_flight > 0)
        _add_gauges(metrics, storage, health, hooks)
        node = Node.over(
            storage,
            uploads=uploads,
            metrics=metrics,
            guard=entrance.guard,
            routes=(*health_routes(health), *entrance.routes),
            listeners=(*entrance.listeners, hooks, warmer),
            observers=(log_request,) if section.log.requests else (),
        )
        return cls(node, health, hooks, warmer)


def _add_gauges(metrics: Metrics, storage: Storage, health: Health, hooks: Webhooks) -> None:
    """`storage` counts a blob once for each repository that has it."""

    def stored() -> Readings:
        found = {("repositories",): 0.0, ("blobs",): 0.0, ("manifests",): 0.0}
        for _, usage in storage.usages():
            found["repositories",] += 1
            found["blobs",] += usage.blobs
            found["manifests",] += usage.manifests
        return found

    def stored_bytes() -> float:
        return float(sum(usage.bytes for _, usage in storage.usages()))

    metrics.gauge("stored", "What repositories hold.", stored, "kind")
    metrics.gauge("stored_bytes", "Bytes of what repositories hold.", stored_bytes)
    metrics.gauge("disk_free_bytes", "Space left.", lambda: float(health.free_bytes()))
    metrics.gauge("ready", "Whether requests are welcome.", lambda: float(not health.problems()))
    metrics.gauge("webhook_queue_events", "Events that wait.", hooks.depths, "target")
