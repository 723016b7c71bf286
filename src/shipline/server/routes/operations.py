"""end-1, and what operators ask: health and metrics."""

from __future__ import annotations

from shipline.server.http import Request, Response, Route, route
from shipline.server.metrics import Metrics
from shipline.server.storage import Storage


def operation_routes(storage: Storage, metrics: Metrics) -> tuple[Route, ...]:
    def base(request: Request) -> Response:
        return Response.of(200, [("Content-Type", "application/json")], b"{}")

    def health(request: Request) -> Response:
        storage.records.get(("repository", ""))
        return Response.of(200, [("Content-Type", "text/plain")], b"ok\n")

    def show(request: Request) -> Response:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response.of(200, [("Content-Type", kind)], metrics.render().encode())

    return (
        route("/v2/?", GET=base),
        route("/healthz", GET=health),
        route("/metrics", GET=show),
    )
