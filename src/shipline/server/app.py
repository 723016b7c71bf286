"""The node as one WSGI callable: routes in, one place where exceptions become answers."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from time import perf_counter

from shipline.server.http import (
    Environ,
    Request,
    Response,
    Route,
    StartResponse,
    WSGIApplication,
    find,
)
from shipline.server.node import Node
from shipline.server.pages import page_routes
from shipline.server.problems import Problem, problem_of
from shipline.server.routes import (
    blob_routes,
    listing_routes,
    manifest_routes,
    operation_routes,
    upload_routes,
)

_PATIENCE = 64 << 20  # bytes of a refused body that are still taken
_VERSION = ("Docker-Distribution-API-Version", "registry/2.0")


def make_app(node: Node) -> WSGIApplication:
    """The protocol over a node's parts; several threads may call it at once."""
    table = (  # tried in order: images first, since they are asked for most
        *manifest_routes(node),
        *upload_routes(node),
        *blob_routes(node),
        *listing_routes(node),
        *operation_routes(node),
        *node.routes,
        *page_routes(node),
    )

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        began = perf_counter()
        request = Request(environ)
        try:
            response = _answer(node, table, request)
        except Exception as error:
            response = _refusal(node, request, error)
        response.headers.append(_VERSION)
        seconds = perf_counter() - began
        node.metrics.answered(request, response, seconds)
        for observe in node.observers:
            observe(request, response, seconds)
        return response.send(request.method, start_response)

    return app


def _answer(node: Node, table: tuple[Route, ...], request: Request) -> Response:
    """Nothing is done, and nothing about a repository is told, before the guard has admitted."""
    request.check_framing()
    request.check_origin()
    found = find(table, request)
    request.repository = found.arguments.get("name", "")
    request.identity = node.guard.admit(request, found.need, request.repository)
    try:
        return found.handler(request, **found.arguments)
    except Problem as problem:
        raise node.guard.reconsider(request, found.need, problem) from None


def _refusal(node: Node, request: Request, error: Exception) -> Response:
    """The answer to an exception, after the client had a chance to send what it was sending."""
    problem = problem_of(error, method=request.method, path=request.path, request_id=request.id)
    if problem.status == 403:
        what = f"{request.method} {request.path}: {problem.message}"
        node.note(request, "refused", request.repository, message=what)
    with suppress(Exception):  # the client is gone, or its headers are what is wrong
        request.drain(_PATIENCE)
    headers = [("Content-Type", "application/json"), ("X-Request-Id", request.id)]
    return Response.of(problem.status, [*headers, *problem.headers], problem.body())
