"""Whether the node can take work: what load balancers ask before they send requests."""

from __future__ import annotations

import os
import threading
import time

from shipline.server.http import Request, Response, Route, Step, route
from shipline.server.storage import Storage

_FRESH_S = 5.0  # a write that worked is believed for so long
_TEXT = [("Content-Type", "text/plain; charset=utf-8")]


class Health:
    """Safe to use from any thread. `stopping` is set for good once the node begins to stop."""

    def __init__(self, storage: Storage, disk_floor: int) -> None:
        """`disk_floor` in bytes: with less free space the node is not ready."""
        self._storage = storage
        self._floor = disk_floor
        self._wrote = float("-inf")
        self.stopping = threading.Event()

    def problems(self) -> list[str]:
        """Why the node should get no requests now, a line each."""
        if self.stopping.is_set():
            return ["the node is stopping"]
        return [line for line in (self._space(), self._metadata()) if line]

    def free_bytes(self) -> int:
        """Space that is left for blobs."""
        found = os.statvfs(self._storage.root)
        return found.f_bavail * found.f_frsize

    def _space(self) -> str:
        free = self.free_bytes()
        return "" if free >= self._floor else f"{free} bytes of disk are free, less than the floor"

    def _metadata(self) -> str:
        """Tried for real, but not by every probe: a durable write costs a trip to the disk."""
        now = time.monotonic()
        if now - self._wrote < _FRESH_S:
            return ""
        try:
            self._storage.records.write({("probe",): str(int(time.time())).encode()})
        except OSError as error:
            return f"the metadata cannot be written: {error.strerror}"
        self._wrote = now
        return ""


def health_routes(health: Health) -> tuple[Route, ...]:
    """/readyz: 200 where requests are welcome, else 503 with the reasons."""

    def ready(request: Request) -> Response:
        problems = health.problems()
        if problems:
            return Response.of(503, _TEXT, "".join(f"{line}\n" for line in problems).encode())
        return Response.of(200, _TEXT, b"ok\n")

    return (route("/readyz", need="open", place=Step.RESERVED, GET=ready),)
