"""end-1, and what operators ask: health and metrics."""

from __future__ import annotations

from shipline.server.http import Request, Response, Route, Step, route
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
        route("/v2/?", need="base", place=Step.LOOP, GET=base),
        route("/healthz", need="open", place=Step.LOOP, GET=health),
        route("/metrics", need="operator", place=Step.RESERVED, GET=show),
    )
