"""end-1, health, readiness and metrics."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable

from shipline.server.http import Pool, Request, Response, Route, route
from shipline.server.node import RegistryNode
from shipline.server.storage import Storage

_FRESH_S = 5.0  # between two probe writes
_TEXT = [("Content-Type", "text/plain; charset=utf-8")]


class Health:
    """Safe to use from any thread. `stopping` is set when the node begins to shut down."""

    def __init__(
        self, storage: Storage, disk_floor: int, others: Callable[[], Iterable[str]] = tuple
    ) -> None:
        """`disk_floor` in bytes: below it the node is not ready; `others` returns more problems."""
        self._others = others
        self._storage = storage
        self._floor = disk_floor
        self._last_write = float("-inf")
        self.stopping = threading.Event()

    def problems(self) -> list[str]:
        """Why the node is not ready, one line each; empty if it is."""
        if self.stopping.is_set():
            return ["the node is shutting down"]
        return [line for line in (self._space(), self._metadata(), *self._others()) if line]

    def free_bytes(self) -> int:
        """Free disk space for blobs."""
        disk = os.statvfs(self._storage.root)
        return disk.f_bavail * disk.f_frsize

    def _space(self) -> str:
        free = self.free_bytes()
        return "" if free >= self._floor else f"only {free} bytes of disk space are free"

    def _metadata(self) -> str:
        """Tried with a durable write, but not on every probe: it costs a trip to the disk."""
        now = time.monotonic()
        if now - self._last_write < _FRESH_S:
            return ""
        try:
            self._storage.records.write({("probe",): str(int(time.time())).encode()})
        except OSError as error:
            return f"the metadata cannot be written: {error.strerror}"
        self._last_write = now
        return ""


def health_routes(health: Health) -> tuple[Route, ...]:
    """/readyz: 200 if ready, else 503 with the reasons."""

    def ready(request: Request) -> Response:
        problems = health.problems()
        if problems:
            return Response.of(503, _TEXT, "".join(f"{line}\n" for line in problems).encode())
        return Response.of(200, _TEXT, b"ok\n")

    return (route("/readyz", requires="open", pool=Pool.RESERVED, GET=ready),)


def operation_routes(node: RegistryNode) -> tuple[Route, ...]:
    def base(request: Request) -> Response:
        return Response.of(200, [("Content-Type", "application/json")], b"{}")

    def health(request: Request) -> Response:
        node.storage.records.get(("repository", ""))
        return Response.of(200, [("Content-Type", "text/plain")], b"ok\n")

    def show(request: Request) -> Response:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response.of(200, [("Content-Type", kind)], node.metrics.render())

    return (
        route("/v2/?", requires="base", pool=Pool.LOOP, GET=base),
        route("/healthz", requires="open", pool=Pool.LOOP, GET=health),
        route("/metrics", requires="operator", pool=Pool.RESERVED, GET=show),
    )
