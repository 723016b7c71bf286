"""JSON over HTTP, as the APIs of GitHub and GitLab have it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from shipline.errors import RegistryError
from shipline.registry.http import HttpClient
from shipline.registry.request import ClientRequest, Url

_LIMIT = 4 << 20  # bytes of a response


def call_json(
    http: HttpClient,
    url: Url,
    headers: Mapping[str, str],
    *,
    operation: str,
    method: str = "GET",
    body: Mapping[str, Any] | None = None,
) -> Any:
    """The JSON of a response with status 200 or 201. `headers` have the credentials, which are sent
    to no other server; only a GET is tried again. Raises AuthError, RegistryError, and ValueError
    for what is not JSON.
    """
    headers = {**headers, "Accept": "application/json"}
    content = b""
    if body is not None:
        headers["Content-Type"] = "application/json"
        content = json.dumps(body).encode()
    request = ClientRequest(method, url, headers, content)
    tries = 0 if method == "GET" else 1
    with closing(
        http.call(request, expect=(200, 201), operation=operation, tries=tries, redirects=0)
    ) as response:
        return json.loads(response.content(_LIMIT))


@contextmanager
def expecting_api(server: str, url: str, hint: str) -> Iterator[None]:
    """Raises RegistryError where the block meets what the API of `server` does not answer."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        message = f"what answers at {url} is not the API of {server}"
        raise RegistryError(message, code="service-unreachable", host="", hint=hint) from None
