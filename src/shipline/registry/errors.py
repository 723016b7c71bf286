"""Failed connections and error responses as RegistryError: the one place that translates foreign
exceptions.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import urllib3.exceptions as urllib3_errors

from shipline.errors import AuthError, RegistryError, ShiplineError
from shipline.registry.request import Origin, Url
from shipline.tasks import check

RETRIED = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 522})
BODY_LIMIT = 64 << 10  # bytes of an error body
_HTTP_TO_HTTPS = "HTTP request to an HTTPS server"  # the message of Go's servers
_MAX_MESSAGE = 300  # characters

_HINTS = {
    401: "log in with `shipline login {host}`, or check that the password or token is still valid",
    403: "unless a rule is named, the account lacks permission: request it or log in as another",
    404: "check the name; a private repository looks absent without access",
    407: "the proxy requires credentials: http://user:password@host:port in HTTP_PROXY",
    405: "the registry has this operation disabled",
    413: "the registry, or a proxy in front of it, limits the request size",
    429: "too many requests for this account or address: log in, use a mirror, or wait",
}


class HttpResponse(Protocol):
    """A response whose body is unread."""

    @property
    def status(self) -> int: ...

    @property
    def url(self) -> Url: ...

    def header(self, name: str) -> str:
        """All values of the header joined with commas, empty if it is absent."""

    def content(self, limit: int) -> bytes:
        """The whole body; raises RegistryError if it is larger than `limit` bytes."""

    def close(self) -> None: ...


class RequestRefused(RegistryError):
    """A registry refused a request; `retry_after_s` is its Retry-After, None without one."""

    def __init__(
        self,
        message: str,
        *,
        host: str,
        status: int,
        hint: str = "",
        diagnostics: tuple[str, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(
            message,
            host=host,
            status=status,
            diagnostics=diagnostics,
            hint=hint,
            retriable=status in RETRIED,
        )
        self.retry_after_s = retry_after_s


def response_error(response: HttpResponse, operation: str) -> ShiplineError:
    """The exception for `response`; reads a bounded part of its body and closes it."""
    host, status = response.url.origin.authority, response.status
    try:
        body = response.content(BODY_LIMIT)
    except RegistryError:
        body = b""
    finally:
        response.close()
    diagnostics = tuple(_diagnostics(body))
    detail = "; ".join(dict.fromkeys(text for _, text in diagnostics if text))
    message = f"{host}: {operation}: {status}" + (f": {clean(detail)}" if detail else "")
    hint = _HINTS.get(status, "").format(host=host)
    if status == 400 and _HTTP_TO_HTTPS in detail:
        hint = tls_hint(host)
    if status in (401, 403):
        return AuthError(message, host=host, status=status, hint=hint)
    if status in RETRIED and not hint:
        hint = "the registry failed; try again later"
    return RequestRefused(
        message,
        host=host,
        status=status,
        hint=hint,
        diagnostics=tuple(code for code, _ in diagnostics if code),
        retry_after_s=retry_after(response.header("Retry-After")),
    )


def tls_hint(host: str) -> str:
    """The hint for a registry that speaks TLS but was asked in plain HTTP."""
    return f"drop --insecure {host}; if the registry has a private CA, name it with --ca FILE"


def clean(text: str) -> str:
    """Untrusted text made safe for a terminal: one short line without control characters."""
    return re.sub(r"[\x00-\x20\x7f-\x9f\u2028-\u202e]+", " ", text).strip()[:_MAX_MESSAGE]


def retry_after(value: str) -> float | None:
    """Seconds to wait, from a number or an HTTP date (RFC 9110, section 10.2.3)."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", value):
        return float(value)
    if not value:
        return None
    import time
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _diagnostics(body: bytes) -> Iterator[tuple[str, str]]:
    """Pairs of code and text, from the specification's JSON, other shapes, or plain text."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
        if text and "<html" not in text.lower():
            yield "", text
        return
    if isinstance(document, str):
        yield "", document
    if not isinstance(document, dict):
        return
    errors = document.get("errors")
    for entry in errors[:10] if isinstance(errors, list) else ():
        yield from _entry(entry)
    yield from _entry(document)


def _entry(entry: object) -> Iterator[tuple[str, str]]:
    if isinstance(entry, str):
        yield "", entry
    if not isinstance(entry, dict):
        return
    code = entry.get("code") or entry.get("error")
    texts = (entry.get(key) for key in ("message", "error_description", "details", "detail"))
    text = next((text for text in texts if isinstance(text, str) and text), "")
    code = code if isinstance(code, str) else ""
    if code or text:
        yield code, f"{code}: {text}" if code and text else code or text


_TUNNEL = "Tunnel connection failed: "  # of http.client
_ALERT = "\x15\x03"  # how a TLS record of an alert begins (RFC 8446, section 5.1)


@contextmanager
def translate_errors(origin: Origin, proxy: str = "") -> Iterator[None]:
    """Raises RegistryError for any failure at `origin`, Cancelled when interrupted.

    `proxy` is the host:port that is connected to instead.
    """
    try:
        yield
    except (OSError, http.client.HTTPException, urllib3_errors.HTTPError, ValueError) as error:
        check()  # an interruption is the cause, if there was one
        if proxy and (problem := _proxy_problem(error)):
            raise _proxy_error(origin, proxy, problem, error) from error
        raise _connection_error(origin, error) from error


def _proxy_problem(error: Exception) -> str:
    """How the proxy itself failed; empty if it did not."""
    if isinstance(error, urllib3_errors.NameResolutionError):
        return "cannot be resolved"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections"
    if isinstance(error, TimeoutError | urllib3_errors.TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and str(error).startswith(_TUNNEL):
        return f"refuses the tunnel: {str(error).removeprefix(_TUNNEL)}"
    return ""


def _proxy_error(origin: Origin, proxy: str, problem: str, error: Exception) -> RegistryError:
    host = origin.authority
    hint = f"check HTTP_PROXY and HTTPS_PROXY, or add {origin.host} to NO_PROXY"
    if str(error).startswith(f"{_TUNNEL}407"):
        hint = "add credentials: http://user:password@host:port in HTTP_PROXY and HTTPS_PROXY"
    retriable = not isinstance(error, ConnectionRefusedError | urllib3_errors.NameResolutionError)
    message = f"{host}: the proxy {proxy} {problem}"
    return RegistryError(message, host=host, hint=hint, retriable=retriable)


def _connection_error(origin: Origin, error: Exception) -> RegistryError:
    host = origin.authority
    text, hint, retriable = f"connection lost: {error}", "run again, or check the network", True
    if isinstance(error, urllib3_errors.NameResolutionError):
        cause = error.__cause__
        retriable = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
        text, hint = "the host name cannot be resolved", "check the spelling and this machine's DNS"
    elif isinstance(error, ssl.SSLCertVerificationError):
        text, retriable = f"certificate refused: {error.verify_message}", False
        hint = "if the registry has a private CA, name its file with --ca, or put it at "
        hint += f"/etc/docker/certs.d/{host}/ca.crt"
    elif isinstance(error, ssl.SSLError) and "WRONG_VERSION" in str(error):
        text, retriable = "the server does not speak TLS", False
        hint = f"if plain HTTP is intended, allow it with --insecure {host}"
    elif isinstance(error, TimeoutError | urllib3_errors.TimeoutError):
        text, hint = "timed out", "the registry or the network is slow or blocked"
    elif isinstance(error, ConnectionRefusedError):
        text, hint = "connection refused", "is the registry running, and is the port right?"
    elif isinstance(error, FileNotFoundError | PermissionError) or (
        isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)
    ):
        text, hint, retriable = f"TLS: {error}", "check the certificate files", False
    elif isinstance(error, urllib3_errors.ProxyError):
        text, hint = f"the proxy failed: {error}", "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
    elif isinstance(error, http.client.BadStatusLine) and str(error.args[0]).startswith(_ALERT):
        text, hint, retriable = (
            "the server speaks TLS, but the request was plain HTTP",
            tls_hint(host),
            False,
        )
    elif isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        text = "the connection was closed unexpectedly"
        if origin.scheme == "http" and isinstance(error, http.client.RemoteDisconnected):
            hint += f"; if it speaks TLS, {tls_hint(host)}"
    elif isinstance(error, ValueError) and not isinstance(error, OSError):
        text, hint, retriable = f"invalid request: {error}", "", False
    elif isinstance(error, OSError):
        text = f"connection lost: {error.strerror or error}"
    return RegistryError(f"{host}: {text}", host=host, hint=hint, retriable=retriable)
