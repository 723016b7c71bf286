"""The node as one function from a request to its response: middleware, routes, handlers."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import perf_counter, time

from shipline.events import Attribute
from shipline.propagation import SpanContext
from shipline.server.http import Coro, Principal, Request, Response, match_route
from shipline.server.node import RegistryNode
from shipline.server.pages import page_routes
from shipline.server.problems import Problem, problem_of
from shipline.server.routes import (
    blob_routes,
    listing_routes,
    manifest_routes,
    operation_routes,
    upload_routes,
)
from shipline.telemetry.server_spans import ServerSpan
from shipline.values import replace

_NAMES = (("Docker-Distribution-API-Version", "registry/2.0"), ("Server", "shipline"))
_HTTP_1_0 = (1, 0)
_OF_REPOSITORIES = ("repository", "upload")
_NAMESPACE = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
Application = Callable[[Request], Coro[Response]]
"""Never raises: every exception becomes a response."""
Middleware = Callable[[RegistryNode, Application], Application]


def make_app(node: RegistryNode) -> Application:
    """The application over a node's parts; it serves any number of requests concurrently."""
    app: Application = _call_handler
    for middleware in reversed(MIDDLEWARE):
        app = middleware(node, app)
    return app


def _observe(node: RegistryNode, app: Application) -> Application:
    """Record metrics and the span, and call the observers, such as the access log."""
    spans = node.spans

    def observe_request(request: Request) -> Coro[Response]:
        started = perf_counter()
        parent = request.parent
        own = None if spans is None else spans.begin(parent)
        request.span = own or parent
        response = yield from app(request)
        seconds = perf_counter() - started
        node.metrics.record(request, response, seconds)
        for observer in node.observers:
            observer(request, response, seconds)
        if spans is not None and own is not None:
            spans.end(_span(request, own, parent, response, seconds))
        return response

    return observe_request


def _span(
    request: Request,
    own: SpanContext,
    parent: SpanContext | None,
    response: Response,
    seconds: float,
) -> ServerSpan:
    """A request in the words of OpenTelemetry's conventions for HTTP servers."""
    attributes: dict[str, Attribute] = {
        "http.request.method": request.method,
        "http.route": request.kind,
        "http.response.status_code": response.status,
        "url.path": request.path,
        "url.scheme": request.scheme,
        "client.address": request.address,
        "user_agent.original": (request.header("User-Agent") or "")[:200],
        "shipline.repository": request.repository,
        "shipline.request_id": request.id,
        "http.request.body.size": request.received,
        "http.response.body.size": 0 if request.method == "HEAD" else response.size,
    }
    for name, value in response.headers:
        if name == "Docker-Content-Digest":
            attributes["oci.manifest.digest"] = value
    name = f"{request.method} {request.kind}"
    error = str(response.status) if response.status >= 500 else ""
    return ServerSpan(own, parent, name, time() - seconds, seconds, attributes, error)


def _handle_errors(node: RegistryNode, app: Application) -> Application:
    """Turn exceptions into responses."""

    def respond(request: Request) -> Coro[Response]:
        try:
            response = yield from app(request)
        except Exception as error:
            response = _error_response(node, request, error)
        response.headers.extend(_NAMES)
        return response

    return respond


def _check_framing(node: RegistryNode, app: Application) -> Application:
    """Reject ambiguous requests that HTTP servers accept (RFC 9112, 3.2 and 6.1): not exactly one
    Host, transfer codings other than chunked or in HTTP/1.0, two body lengths. And expectations
    that would be waited for in vain (RFC 9110, 10.1.1).
    """

    def check_framing(request: Request) -> Coro[Response]:
        host = request.headers.get("host", "")
        if "," in host or (not host and request.version > _HTTP_1_0):
            raise Problem(400, "UNSUPPORTED", "a request must have exactly one Host header")
        coding = request.headers.get("transfer-encoding")
        if coding is not None and coding.strip().lower() != "chunked":
            raise Problem(501, "UNSUPPORTED", "the only transfer coding supported is chunked")
        if coding is not None and request.version <= _HTTP_1_0:
            raise Problem(400, "UNSUPPORTED", "HTTP/1.0 has no transfer codings")
        if coding is not None and request.headers.get("content-length"):
            raise Problem(
                400, "UNSUPPORTED", "a body has either a Content-Length or chunked coding, not both"
            )
        if request.headers.get("expect", "100-continue").lower() != "100-continue":
            raise Problem(417, "UNSUPPORTED", "the only expectation supported is 100-continue")
        return (yield from app(request))

    return check_framing


def _refuse_cross_site(node: RegistryNode, app: Application) -> Application:
    """Refuse changes that a browser sends for a page of another site: they would carry the user's
    credentials, or come from an address that an open node trusts.

    Browsers say where a request comes from (Fetch Metadata; Origin, RFC 6454); other clients send
    neither header.
    """

    def refuse_cross_site(request: Request) -> Coro[Response]:
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        foreign = site or (origin and origin.partition("://")[2] != request.headers.get("host"))
        if request.changes and foreign and site not in ("same-origin", "none"):
            raise Problem(403, "DENIED", "cross-site request")
        return (yield from app(request))

    return refuse_cross_site


def _route(node: RegistryNode, app: Application) -> Application:
    """Find the route of the request, and the repository that it means: a client of a mirror may
    name another registry in `ns`.
    """
    table = (  # tried in order, the most frequent first
        *manifest_routes(node),
        *upload_routes(node),
        *blob_routes(node),
        *listing_routes(node),
        *operation_routes(node),
        *node.routes,
        *page_routes(node),
    )

    def route_request(request: Request) -> Coro[Response]:
        request.match = match_route(table, request)
        request.repository = request.match.arguments.get("name", "")
        if node.pull_through is None or request.match.route.requires not in _OF_REPOSITORIES:
            return (yield from app(request))
        ns = request.parameter("ns") or ""
        ns = ns if _NAMESPACE.fullmatch(ns) else ""
        name = request.repository = node.pull_through.local_name(request.repository, ns)
        request.match = replace(request.match, arguments={**request.match.arguments, "name": name})
        response = yield from app(request)
        if ns and node.pull_through.source(name) is not None:
            response.headers.append(("OCI-Namespace", ns))
        return response

    return route_request


def _authorize(node: RegistryNode, app: Application) -> Application:
    """Authenticate and authorize before anything is done or revealed."""

    def authorize(request: Request) -> Coro[Response]:
        requires = request.match.route.requires
        yield node.authenticator.pool(request)

        def principal() -> Principal:
            return node.authenticator.authorize(request, requires, request.repository)

        request.principal = node.cdn.authorize(request, principal) if node.cdn else principal()
        try:
            return (yield from app(request))
        except Problem as problem:
            raise node.authenticator.challenge_refusal(request, requires, problem) from None

    return authorize


def _read_body(node: RegistryNode, app: Application) -> Application:
    """Read the body, up to the route's limit, unless the handler streams it."""

    def read_body(request: Request) -> Coro[Response]:
        if request.has_body and not request.match.streams_body:
            yield from request.receive(request.match.route.body)
        return (yield from app(request))

    return read_body


def _call_handler(request: Request) -> Coro[Response]:
    """Run the handler in the pool of its route."""
    yield request.match.pool
    response = request.match.handler(request, **request.match.arguments)
    return response if isinstance(response, Response) else (yield from response)


MIDDLEWARE: tuple[Middleware, ...] = (
    _observe,
    _handle_errors,
    _check_framing,
    _refuse_cross_site,
    _route,
    _authorize,
    _read_body,
)
"""Outermost first. Inside all of them is the handler; outside is the server with its limits
(http_server.py).
"""


def _error_response(node: RegistryNode, request: Request, error: Exception) -> Response:
    problem = problem_of(error, method=request.method, path=request.path, request_id=request.id)
    if problem.status == 403:
        message = f"{request.method} {request.path}: {problem.message}"
        node.publish(request, "refused", request.repository, message=message)
    headers = [
        ("Content-Type", "application/json"),
        ("X-Request-Id", request.id),
        ("Cache-Control", "no-store"),
    ]
    return Response.of(problem.status, [*headers, *problem.headers], problem.body())
