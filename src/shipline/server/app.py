"""The node as one function from a request to its response: middleware, routes, handlers."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from shipline.server.http import Request, Response, Steps, find
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

_VERSION = ("Docker-Distribution-API-Version", "registry/2.0")
_HTTP_1_0 = (1, 0)
Application = Callable[[Request], Steps[Response]]
"""Never raises but for a defect: every exception is a response."""
Middleware = Callable[[Node, Application], Application]


def make_app(node: Node) -> Application:
    """The protocol over a node's parts; many requests may be under way at once."""
    app: Application = _handled
    for layer in reversed(MIDDLEWARE):
        app = layer(node, app)
    return app


def _observed(node: Node, app: Application) -> Application:
    """Metrics, and the log of requests."""

    def observed(request: Request) -> Steps[Response]:
        began = perf_counter()
        response = yield from app(request)
        seconds = perf_counter() - began
        node.metrics.answered(request, response, seconds)
        for observe in node.observers:
            observe(request, response, seconds)
        return response

    return observed


def _answered(node: Node, app: Application) -> Application:
    """The one place where exceptions become responses."""

    def answered(request: Request) -> Steps[Response]:
        try:
            response = yield from app(request)
        except Exception as error:
            response = _refusal(node, request, error)
        response.headers.append(_VERSION)
        return response

    return answered


def _framed(node: Node, app: Application) -> Application:
    """What servers let through (RFC 9112, 3.2 and 6.1): no host or two, codings of a body other
    than chunked, two lengths.
    """

    def framed(request: Request) -> Steps[Response]:
        host = request.headers.get("host", "")
        if "," in host or (not host and request.version > _HTTP_1_0):
            raise Problem(400, "UNSUPPORTED", "a request names one host")
        coding = request.headers.get("transfer-encoding")
        if coding is not None and coding.strip().lower() != "chunked":
            raise Problem(501, "UNSUPPORTED", "a body may be chunked, and coded in no other way")
        if coding is not None and request.headers.get("content-length"):
            raise Problem(400, "UNSUPPORTED", "a body has one length: Content-Length or chunks")
        return (yield from app(request))

    return framed


def _from_here(node: Node, app: Application) -> Application:
    """No change that a page of another site asks a browser for: it would bring the credentials
    which the browser keeps, or the address from which an open node takes everything.

    Browsers say so (Fetch Metadata; RFC 6454), other clients say nothing.
    """

    def from_here(request: Request) -> Steps[Response]:
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        foreign = site or (origin and origin.partition("://")[2] != request.headers.get("host"))
        if request.changes and foreign and site not in ("same-origin", "none"):
            raise Problem(403, "DENIED", "the request comes from a page of another site")
        return (yield from app(request))

    return from_here


def _routed(node: Node, app: Application) -> Application:
    """The handler of the request, and what it must be allowed."""
    table = (  # tried in order: images first, since they are asked for most
        *manifest_routes(node),
        *upload_routes(node),
        *blob_routes(node),
        *listing_routes(node),
        *operation_routes(node),
        *node.routes,
        *page_routes(node),
    )

    def routed(request: Request) -> Steps[Response]:
        request.found = find(table, request)
        request.repository = request.found.arguments.get("name", "")
        return (yield from app(request))

    return routed


def _admitted(node: Node, app: Application) -> Application:
    """Nothing is done, and nothing about a repository is told, before the guard has admitted."""

    def admitted(request: Request) -> Steps[Response]:
        need = request.found.route.need
        yield node.guard.place(request)
        request.identity = node.guard.admit(request, need, request.repository)
        try:
            return (yield from app(request))
        except Problem as problem:
            raise node.guard.reconsider(request, need, problem) from None

    return admitted


def _received(node: Node, app: Application) -> Application:
    """Have a small body before the handler runs; it is bounded by the route."""

    def received(request: Request) -> Steps[Response]:
        if request.has_body and not request.found.receives:
            yield from request.receive(request.found.route.body)
        return (yield from app(request))

    return received


def _handled(request: Request) -> Steps[Response]:
    """The handler, where its route says that it runs."""
    yield request.found.place
    response = request.found.handler(request, **request.found.arguments)
    return response if isinstance(response, Response) else (yield from response)


MIDDLEWARE: tuple[Middleware, ...] = (
    _observed,
    _answered,
    _framed,
    _from_here,
    _routed,
    _admitted,
    _received,
)
"""Outermost first; inside of all is the handler, outside the server with its limits (front.py)."""


def _refusal(node: Node, request: Request, error: Exception) -> Response:
    problem = problem_of(error, method=request.method, path=request.path, request_id=request.id)
    if problem.status == 403:
        what = f"{request.method} {request.path}: {problem.message}"
        node.note(request, "refused", request.repository, message=what)
    headers = [("Content-Type", "application/json"), ("X-Request-Id", request.id)]
    return Response.of(problem.status, [*headers, *problem.headers], problem.body())
