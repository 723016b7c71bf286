"""end-1, health and metrics."""

from __future__ import annotations

from shipline.server.http import Pool, Request, Response, Route, route
from shipline.server.node import Node


def operation_routes(node: Node) -> tuple[Route, ...]:
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
