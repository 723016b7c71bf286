"""The node as one WSGI callable: routes in, one place where exceptions become answers."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from shipline.server.http import Environ, Request, Response, StartResponse, WSGIApplication, find
from shipline.server.manifests import Manifests
from shipline.server.metrics import Metrics
from shipline.server.problems import problem_of
from shipline.server.routes import (
    blob_routes,
    listing_routes,
    manifest_routes,
    operation_routes,
    upload_routes,
)
from shipline.server.storage import Storage
from shipline.server.uploads import Uploads

_PATIENCE = 64 << 20  # bytes of a refused body that are still taken
_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})
_VERSION = ("Docker-Distribution-API-Version", "registry/2.0")


def make_app(storage: Storage, uploads: Uploads | None = None) -> WSGIApplication:
    """The protocol over a data directory; several threads may call it at once."""
    uploads = uploads or Uploads(storage)
    manifests = Manifests(storage)
    metrics = Metrics(lambda: uploads.in_flight)
    table = (
        *manifest_routes(manifests),
        *upload_routes(storage, uploads),
        *blob_routes(storage),
        *listing_routes(storage, manifests),
        *operation_routes(storage, metrics),
    )

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        try:
            response = find(table, request)
        except Exception as error:
            response = _refusal(request, error)
        response.headers.append(_VERSION)
        method = request.method if request.method in _METHODS else "other"
        sent = 0 if method == "HEAD" else response.size
        metrics.count(method, response.status, received=request.taken, sent=sent)
        return response.send(request.method, start_response)

    return app


def _refusal(request: Request, error: Exception) -> Response:
    """The answer to an exception, after the client had a chance to send what it was sending."""
    problem = problem_of(error)
    with suppress(Exception):  # the client is gone, or its headers are what is wrong
        request.drain(_PATIENCE)
    headers = [("Content-Type", "application/json"), *problem.headers]
    return Response.of(problem.status, headers, problem.body())
