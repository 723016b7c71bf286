"""A node put together from its section: every part is made and connected here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from shipline.server.access import AccessControl
from shipline.server.admission.retention import retain_forever
from shipline.server.admission.rules import AdmissionRules
from shipline.server.gc import GcReport, collect_forever
from shipline.server.health import Health, health_routes
from shipline.server.hooks import Webhooks, hook_routes
from shipline.server.jobs import Job, chore_routes, collection, retention
from shipline.server.journal import NodeEvent
from shipline.server.logs import log_request
from shipline.server.manifests import Manifests
from shipline.server.metrics import Metrics, Readings
from shipline.server.node import Node, tell
from shipline.server.section import RegistrySection
from shipline.server.storage import Storage
from shipline.server.uploads import Uploads
from shipline.tasks import TaskGroup


@dataclass(frozen=True, slots=True)
class Assembly:
    """What answers requests, and the parts that have threads or a life of their own."""

    node: Node
    health: Health
    hooks: Webhooks
    chores: tuple[Job, ...]
    section: RegistrySection

    @classmethod
    def of(
        cls,
        storage: Storage,
        uploads: Uploads,
        entrance: AccessControl,
        section: RegistrySection,
        environ: Mapping[str, str],
        base: Path,
    ) -> Self:
        """Raises ConfigError for a secret or a key that is not there; `base` is the directory that
        the paths of keys are relative to.
        """
        health = Health(storage, section.limits.disk_floor.bytes)
        metrics = Metrics(lambda: uploads.in_flight)
        sent = partial(_count_delivery, metrics)
        hooks = Webhooks(storage.records, section.webhooks, environ=environ, sent=sent)
        _add_gauges(metrics, storage, health, hooks)
        entrance.watchers.append(partial(_count_login, metrics))
        manifests = Manifests(storage)
        door = AdmissionRules(section.policy, storage, manifests, metrics, base, entrance.projects)
        listeners = (door, *entrance.listeners, hooks)
        told, news = partial(_count_collection, metrics), partial(tell, listeners)
        gc = collection(storage, section.collection, told, news)
        retain = retention(storage, manifests, section.policy, door, news)
        node = Node.over(
            storage,
            uploads=uploads,
            manifests=manifests,
            metrics=metrics,
            guard=entrance.guard,
            door=door,
            routes=(
                *health_routes(health),
                *hook_routes(hooks),
                *chore_routes("/api/gc", gc, "dry_run", "untagged", "grace"),
                *chore_routes("/api/retention", retain, "dry_run"),
                *entrance.routes,
            ),
            listeners=listeners,
            observers=(log_request,) if section.log.requests else (),
            quick_pulls=_pulls_are_quick(section),
        )
        return cls(node, health, hooks, (gc, retain), section)

    def start(self, group: TaskGroup) -> None:
        """Start what goes on by itself: all of it ends with the scope of `group`."""
        storage, section, node = self.node.storage, self.section, self.node
        self.hooks.start(group)
        told = partial(_count_collection, node.metrics)
        news = partial(tell, node.listeners)
        group.start(collect_forever, storage, section.collection, told=told, tell=news)
        for chore in self.chores:
            chore.start(group)
        if section.policy.retention:
            policy, door = section.policy, node.door
            group.start(retain_forever, storage, node.manifests, policy, door=door, tell=news)


def _pulls_are_quick(section: RegistrySection) -> bool:
    policy = section.policy
    listens = any("pull" in hook.events for hook in section.webhooks)
    return not (
        policy.signatures or policy.vulnerabilities or section.access.audit_pulls or listens
    )


def _count_collection(metrics: Metrics, report: GcReport) -> None:
    metrics.gc_runs.labels("ok").inc()
    metrics.gc_freed.inc(report.bytes)


def _count_delivery(metrics: Metrics, target: str, result: str) -> None:
    metrics.deliveries.labels(target, result).inc()


def _count_login(metrics: Metrics, event: NodeEvent) -> None:
    if event.kind == "login":
        metrics.logins.labels(event.message.partition(":")[0]).inc()


def _add_gauges(metrics: Metrics, storage: Storage, health: Health, hooks: Webhooks) -> None:
    """`storage` counts a blob once for each repository that has it."""

    def stored() -> Readings:
        found: dict[tuple[str, ...], float] = {
            ("repositories",): 0.0,
            ("blobs",): 0.0,
            ("manifests",): 0.0,
        }
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
