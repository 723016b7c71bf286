"""A registry node: assembled from its section, started and shut down."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from shipline.errors import ConfigError
from shipline.server.access import AccessControl, ProjectUsage, check_access, open_access_control
from shipline.server.admission.retention import retain_logged
from shipline.server.admission.rules import AdmissionRules, size_limit
from shipline.server.app import make_app
from shipline.server.cdn import Cdn, PurgeList, purge_routes
from shipline.server.events import NodeEvent
from shipline.server.gc import GcReport, collect_logged
from shipline.server.hooks import Webhooks, hook_routes
from shipline.server.http import Route
from shipline.server.jobs import Job, collection, job_routes, retention
from shipline.server.logs import log_request
from shipline.server.manifests import Manifests
from shipline.server.metrics import Metrics, Readings
from shipline.server.node import RegistryNode, publish
from shipline.server.problems import Problem
from shipline.server.replication import (
    Followers,
    Replicate,
    Replication,
    add_replication_gauges,
    lag_problems,
    region_states,
    replication_routes,
)
from shipline.server.repository import StoredRepositories
from shipline.server.routes.operations import Health, health_routes
from shipline.server.section import LimitsSection, RegistrySection
from shipline.server.storage import Storage
from shipline.server.uploads import UploadStore
from shipline.server.upstreams.pull_through import PullThrough
from shipline.server.upstreams.upstream import Connect
from shipline.tasks import TaskGroup, repeat
from shipline.telemetry.server_spans import ServerSpans


@dataclass(frozen=True, slots=True)
class Assembly:
    """The node, and the parts with background threads."""

    node: RegistryNode
    health: Health
    hooks: Webhooks
    jobs: tuple[Job, ...]
    replications: tuple[Replication, ...]
    section: RegistrySection

    @classmethod
    def of(
        cls,
        storage: Storage,
        uploads: UploadStore,
        access_control: AccessControl,
        section: RegistrySection,
        environ: Mapping[str, str],
        base: Path,
        replicate: Replicate | None = None,
        connect: Connect | None = None,
        spans: ServerSpans | None = None,
    ) -> Self:
        """Raises ConfigError for a missing secret or key; paths of keys are relative to `base`."""
        replications: tuple[Replication, ...] = ()
        health = Health(
            storage, section.limits.disk_floor.bytes, lambda: lag_problems(replications)
        )
        metrics = Metrics(lambda: uploads.in_flight)
        on_attempt = partial(_count_delivery, metrics)
        hooks = Webhooks(storage.records, section.webhooks, environ=environ, on_attempt=on_attempt)
        _add_gauges(metrics, storage, health, hooks)
        access_control.account_listeners.append(partial(_count_login, metrics))
        manifests = Manifests(storage)
        admission = AdmissionRules(
            section.policy, storage, manifests, metrics, base, access_control.projects
        )
        listeners = (admission, *access_control.listeners, hooks)
        through = None
        if section.upstreams and connect is not None:
            rules = section.policy.signatures or section.policy.vulnerabilities
            through = PullThrough(
                section.upstreams,
                connect,
                storage,
                manifests,
                metrics,
                admission.on_event if rules else None,
                partial(_check_room, section.limits, health.free_bytes),
            )
        on_report = partial(_count_collection, metrics)
        notify = partial(publish, listeners)
        gc = collection(storage, section.collection, on_report, notify)
        retain = retention(storage, manifests, section.policy, admission, notify)
        cdn, cdn_routes = _cdn(section, storage, access_control, environ)
        if replicate is not None:
            repositories = StoredRepositories(storage, manifests, uploads, notify, _REPLICATION)
            replications = tuple(replicate(repositories, section.replication))
        followers = Followers(storage.journal, storage.clock)
        if storage.journal.enabled or replications:
            add_replication_gauges(metrics, followers, replications)
        node = RegistryNode.over(
            storage,
            uploads=uploads,
            manifests=manifests,
            metrics=metrics,
            authenticator=access_control.authenticator,
            admission=admission,
            routes=(
                *health_routes(health),
                *cdn_routes,
                *hook_routes(hooks),
                *job_routes("/api/gc", gc, "dry_run", "untagged", "grace"),
                *job_routes("/api/retention", retain, "dry_run"),
                *access_control.routes,
                *replication_routes(storage, followers, replications, health.stopping.is_set),
            ),
            listeners=listeners,
            observers=(log_request,) if section.log.requests else (),
            cdn=cdn,
            pull_through=through,
            replications=section.replication,
            spans=spans,
            pulls_in_loop=_pulls_in_loop(section),
            accounts=access_control.accounts,
            retention=section.policy.retention,
            retention_job=retain,
            regions=partial(region_states, followers, replications)
            if storage.journal.enabled
            else None,
        )
        return cls(node, health, hooks, (gc, retain), replications, section)

    def start(self, group: TaskGroup) -> None:
        """Start the background work; it ends when the scope of `group` does."""
        storage, section, node = self.node.storage, self.section, self.node
        self.hooks.start(group)
        if node.spans is not None:
            node.spans.start(group)
        on_report = partial(_count_collection, node.metrics)
        notify = partial(publish, node.listeners)
        if section.collection.every is not None:
            collect = partial(collect_logged, storage, section.collection, on_report, notify)
            group.start(repeat, max(section.collection.every.seconds, 1.0), collect)
        if node.pull_through is not None:
            node.pull_through.start(group)
        for job in self.jobs:
            job.start(group)
        for replication in self.replications:
            replication.start(group)
        if section.policy.retention:
            rules, every_s = section.policy.retention, section.policy.retention_every.seconds
            retain = partial(
                retain_logged, storage, node.manifests, rules, node.admission, publish=notify
            )
            group.start(repeat, every_s, retain)


def _cdn(
    section: RegistrySection,
    storage: Storage,
    access_control: AccessControl,
    environ: Mapping[str, str],
) -> tuple[Cdn | None, tuple[Route, ...]]:
    """The CDN with its routes; from now on changes are noted for its purge list."""
    options = section.cdn
    if options is None:
        return None, ()
    if options.account and not access_control.authenticator.accounts:
        raise ConfigError(
            f"cdn.account: this node has no accounts, so {options.account} cannot be told apart",
            hint="set registry.access.mode to accounts",
        )
    proxies, redirects = section.access.proxies, section.cdn_accelerate
    cdn = Cdn.of(options, environ, redirects=redirects, proxies=proxies, clock=storage.clock)
    purges = PurgeList(storage.records, options.purge_keep.seconds, storage.clock)
    storage.derive = purges.changes
    return cdn, purge_routes(purges, options.url, storage.clock)


def _pulls_in_loop(section: RegistrySection) -> bool:
    policy = section.policy
    listens = any("pull" in webhook.events for webhook in section.webhooks)
    return not (
        policy.signatures or policy.vulnerabilities or section.access.audit_pulls or listens
    )


def _count_collection(metrics: Metrics, report: GcReport | None) -> None:
    metrics.gc_runs.labels("failed" if report is None else "ok").inc()
    if report is not None:
        metrics.gc_freed.inc(report.bytes)


def _count_delivery(metrics: Metrics, target: str, result: str) -> None:
    metrics.deliveries.labels(target, result).inc()


def _count_login(metrics: Metrics, event: NodeEvent) -> None:
    if event.kind == "login":
        metrics.logins.labels(event.message.partition(":")[0]).inc()


def _add_gauges(metrics: Metrics, storage: Storage, health: Health, hooks: Webhooks) -> None:
    """A blob counts once per repository that has it."""

    def stored() -> Readings:
        counts: dict[tuple[str, ...], float] = {
            ("repositories",): 0.0,
            ("blobs",): 0.0,
            ("manifests",): 0.0,
        }
        for _, usage in storage.usages():
            counts["repositories",] += 1
            counts["blobs",] += usage.blobs
            counts["manifests",] += usage.manifests
        return counts

    def stored_bytes() -> float:
        return float(sum(usage.bytes for _, usage in storage.usages()))

    metrics.gauge("stored", "Repositories, and their blobs and manifests.", stored, "kind")
    metrics.gauge("stored_bytes", "Bytes of all repositories.", stored_bytes)
    metrics.gauge("disk_free_bytes", "Free disk space.", lambda: float(health.free_bytes()))
    metrics.gauge(
        "ready", "Whether the node is ready for requests.", lambda: float(not health.problems())
    )
    metrics.gauge("webhook_queue_events", "Events waiting for delivery.", hooks.depths, "target")


_REPLICATION = "(replication)"  # no account can have this name
_EXPIRE_EVERY_S, _TRIM_EVERY_S = 600.0, 60.0


def serve_registry(
    listen: str,
    data: Path,
    *,
    section: RegistrySection | None = None,
    ready: Callable[[str], None] = lambda url: None,
    notify: Callable[[str], None] = lambda line: None,
    insecure_open: bool = False,
    insecure_http: bool = False,
    environ: Mapping[str, str] | None = None,
    base: Path = Path(),
    connect: Connect | None = None,
    replicate: Replicate | None = None,
    spans: ServerSpans | None = None,
) -> None:
    """Serve the directory `data` on `listen` (`host:port`) until SIGTERM or SIGINT, or until the
    scope is cancelled. Call it from the main thread.

    At shutdown running requests are completed, for up to the section's drain-timeout; a second
    signal kills the process. Port 0 picks a free one. `ready` is called with the node's URL once it
    accepts connections, `notify` with lines for the operator (such as the initial password). On an
    address that other machines can reach, TLS and accounts are required unless `insecure_open` or
    `insecure_http` is set. `environ` holds the secrets that the section names; paths of keys are
    relative to `base`; `connect` reaches its upstreams, `replicate` makes its replications; `spans`
    records its requests.

    Raises UsageError for an address in use and a directory served by another process, ConfigError
    for a missing secret or key.
    """
    from shipline.server.http_server import open_listener, parse_address, url_of

    section = section or RegistrySection()
    address = parse_address(listen)
    host = str(address[0])
    check_access(section.access, host, insecure_open=insecure_open)
    with ExitStack() as stack:
        storage = stack.enter_context(closing(Storage(data, metadata=section.metadata)))
        if section.role or section.replication:
            storage.journal.enable()
        else:
            storage.journal.disable()
        uploads = UploadStore(storage, max_size=_max_blob_size(section.limits))
        stack.enter_context(closing(uploads))
        listener = stack.enter_context(closing(open_listener(address)))
        uploads.recover()
        uploads.expire(section.limits.upload_expiry.seconds)
        access_control = stack.enter_context(
            open_access_control(
                data,
                host,
                section.access,
                insecure_open=insecure_open,
                insecure_http=insecure_http,
                project_usage=ProjectUsage(
                    storage.usages, partial(size_limit, section.policy.quotas)
                ),
            )
        )
        assembly = Assembly.of(
            storage,
            uploads,
            access_control,
            section,
            environ or {},
            base,
            replicate,
            connect,
            spans,
        )
        for line in (*access_control.notices, *_warnings(section, access_control)):
            notify(line)
        url = url_of(listener, tls=access_control.certificates is not None)
        _serve(assembly, listener, section, access_control, lambda: ready(url))


def _serve(
    assembly: Assembly,
    listener: socket.socket,
    section: RegistrySection,
    access_control: AccessControl,
    ready: Callable[[], None],
) -> None:
    """Run the background work and the server until the server ends."""
    from shipline.server.http_server import run

    stopping, journal = assembly.health.stopping, assembly.node.storage.journal

    def stop() -> None:
        stopping.set()
        journal.progress.end()  # whoever waits for it has an answer at once

    with TaskGroup() as group:
        try:
            age_s = section.limits.upload_expiry.seconds
            expire = partial(assembly.node.uploads.expire, age_s)
            group.start(repeat, min(_EXPIRE_EVERY_S, max(age_s, 1.0)), expire)
            trim = partial(journal.trim, section.journal.entries, section.journal.age.seconds)
            group.start(repeat, _TRIM_EVERY_S, trim)
            assembly.start(group)
            run(
                make_app(assembly.node),
                listener,
                section,
                access_control,
                group,
                assembly.node.metrics,
                ready=ready,
                stopping=stop,
            )
        finally:
            stopping.set()
            group.scope.cancel()
            if (through := assembly.node.pull_through) is not None:
                through.close()


def _warnings(section: RegistrySection, access_control: AccessControl) -> Iterator[str]:
    """Warnings for the operator."""
    if section.policy.signatures and not access_control.authenticator.accounts:
        yield (
            "policy.signatures applies to everyone: without accounts nobody can pull, and so sign, "
            "an unsigned image"
        )
    sources = [one.from_ for one in section.replication if one.from_]
    if sources and not access_control.authenticator.accounts:
        yield (
            f"without accounts whoever reaches this node can pull what it replicates from "
            f"{', '.join(sources)}, also from private projects; set access.mode to accounts"
        )
    if section.role == "edge" and not sources and not section.upstreams:
        yield (
            "this edge has neither upstreams nor a replication from another registry, and serves "
            "only what is pushed to it"
        )


def _check_room(limits: LimitsSection, free_bytes: Callable[[], int], size: int) -> None:
    """Raises Problem for a blob of an upstream that is larger than the limit, or than the space
    that is free above the floor.
    """
    largest = _max_blob_size(limits)
    if largest is not None and size > largest:
        raise Problem(502, "SIZE_INVALID", f"the blob is larger than limits.blob-size, {largest}")
    if size > free_bytes() - limits.disk_floor.bytes:
        raise Problem(507, "UNKNOWN", "the registry has no space left for this blob")


def _max_blob_size(limits: LimitsSection) -> int | None:
    return None if limits.blob_size is None else limits.blob_size.bytes
