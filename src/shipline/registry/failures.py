"""What a registry, or the way to it, meant by saying no: one error with a hint."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import urllib3.exceptions as foreign

from shipline.errors import AuthError, RegistryError, ShiplineError
from shipline.registry.origin import Origin, Url
from shipline.tasks import check

RETRIED = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 522})
BODY_LIMIT = 64 << 10  # bytes of an error body that are looked at
_WANTS_TLS = "HTTP request to an HTTPS server"  # what Go's servers say
_LONGEST = 300  # characters of a message that are shown

_HINTS = {
    401: "log in with `shipline login {host}`, or check that the password or token still holds",
    403: "where no rule is named, the account lacks the right: ask for it, or log in as another",
    404: "check the name; a private repository is hidden from those who may not see it",
    407: "the proxy before it wants a login: http://user:password@host:port in HTTP_PROXY",
    405: "the registry has this function switched off",
    413: "the registry, or a proxy before it, limits the size of a request",
    429: "too many requests for this account or address: log in, use a mirror, or wait",
}


class Reply(Protocol):
    """An answer, its body unread."""

    @property
    def status(self) -> int: ...

    @property
    def url(self) -> Url: ...

    def header(self, name: str) -> str:
        """All values of the header joined with commas, empty where there is none."""

    def content(self, limit: int) -> bytes:
        """The whole body; raises RegistryError if it has more than `limit` bytes."""

    def close(self) -> None: ...


class Refused(RegistryError):
    """A registry's answer says no; `retry_after_s` is how long it asks to wait, None if not."""

    def __init__(
        self, message: str, *, host: str, status: int, hint: str = "", **more: object
    ) -> None:
        diagnostics = more.get("diagnostics")
        super().__init__(
            message,
            host=host,
            status=status,
            diagnostics=diagnostics if isinstance(diagnostics, tuple) else (),
            hint=hint,
            retriable=status in RETRIED,
        )
        self.retry_after_s: float | None = None


def failure(reply: Reply, doing: str) -> ShiplineError:
    """The error that `reply` means; reads a bounded part of its body and closes it."""
    host, status = reply.url.origin.authority, reply.status
    wait = retry_after(reply.header("Retry-After"))
    try:
        body = reply.content(BODY_LIMIT)
    except RegistryError:
        body = b""
    finally:
        reply.close()
    found = tuple(_diagnostics(body))
    said = "; ".join(dict.fromkeys(text for _, text in found if text))
    message = f"{host}: {doing}: {status}" + (f": {clean(said)}" if said else "")
    hint = _HINTS.get(status, "").format(host=host)
    if status == 400 and _WANTS_TLS in said:
        hint = tls_hint(host)
    if status in (401, 403):
        return AuthError(message, host=host, status=status, hint=hint)
    if status in RETRIED and not hint:
        hint = "the registry has a problem of its own; run again in a while"
    codes = tuple(code for code, _ in found if code)
    refused = Refused(message, host=host, status=status, hint=hint, diagnostics=codes)
    refused.retry_after_s = wait
    return refused


def tls_hint(host: str) -> str:
    """For a registry that was asked in plain http, and speaks TLS."""
    return f"leave --insecure {host} out; if it has an authority of its own, name it with --ca FILE"


def clean(text: str) -> str:
    """Text of a stranger, fit for a terminal: one line, no control characters, not long."""
    return re.sub(r"[\x00-\x20\x7f-\x9f\u2028-\u202e]+", " ", text).strip()[:_LONGEST]


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
    """Pairs of code and text: the specification's shape, those of others, or plain text."""
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
def translated(origin: Origin, proxy: str = "") -> Iterator[None]:
    """Raises RegistryError for what goes wrong at `origin`, Cancelled when interrupted.

    `proxy` is the host:port that is connected to in its place.
    """
    try:
        yield
    except (OSError, http.client.HTTPException, foreign.HTTPError, ValueError) as error:
        check()  # when the work was interrupted, that is the reason
        if proxy and (problem := _proxy_problem(error)):
            raise _proxy_error(origin, proxy, problem, error) from error
        raise _error(origin, error) from error


def _proxy_problem(error: Exception) -> str:
    """What the proxy itself did wrong; empty where it is not to blame."""
    if isinstance(error, foreign.NameResolutionError):
        return "is not known by name"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections"
    if isinstance(error, TimeoutError | foreign.TimeoutError):
        return "does not answer in time"
    if isinstance(error, OSError) and str(error).startswith(_TUNNEL):
        return f"opens no way: {str(error).removeprefix(_TUNNEL)}"
    return ""


def _proxy_error(origin: Origin, proxy: str, problem: str, error: Exception) -> RegistryError:
    host = origin.authority
    hint = f"check HTTP_PROXY and HTTPS_PROXY, or add {origin.host} to NO_PROXY"
    if str(error).startswith(f"{_TUNNEL}407"):
        hint = "give it a login: http://user:password@host:port in HTTP_PROXY and HTTPS_PROXY"
    retriable = not isinstance(error, ConnectionRefusedError | foreign.NameResolutionError)
    message = f"{host}: the proxy {proxy} {problem}"
    return RegistryError(message, host=host, hint=hint, retriable=retriable)


def _error(origin: Origin, error: Exception) -> RegistryError:
    host = origin.authority
    text, hint, retriable = f"connection lost: {error}", "run again, or look at the network", True
    if isinstance(error, foreign.NameResolutionError):
        cause = error.__cause__
        retriable = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
        text, hint = "the host name is not known", "check the spelling, and the DNS of this machine"
    elif isinstance(error, ssl.SSLCertVerificationError):
        text, retriable = f"certificate refused: {error.verify_message}", False
        hint = "if the registry has its own authority, name its file with --ca, or put it at "
        hint += f"/etc/docker/certs.d/{host}/ca.crt"
    elif isinstance(error, ssl.SSLError) and "WRONG_VERSION" in str(error):
        text, retriable = "the server does not speak TLS", False
        hint = f"if plain http is really meant, allow it with --insecure {host}"
    elif isinstance(error, TimeoutError | foreign.TimeoutError):
        text, hint = "no answer in time", "the registry or the network is slow or blocked"
    elif isinstance(error, ConnectionRefusedError):
        text, hint = "connection refused", "is the registry running, and is the port right?"
    elif isinstance(error, FileNotFoundError | PermissionError) or (
        isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)
    ):
        text, hint, retriable = f"TLS: {error}", "check the certificate files", False
    elif isinstance(error, foreign.ProxyError):
        text, hint = f"the proxy failed: {error}", "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
    elif isinstance(error, http.client.BadStatusLine) and str(error.args[0]).startswith(_ALERT):
        text, hint, retriable = "it speaks TLS, and was asked in plain http", tls_hint(host), False
    elif isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        text = "the connection was closed in the middle"
        if origin.scheme == "http" and isinstance(error, http.client.RemoteDisconnected):
            hint += f"; if it speaks TLS, {tls_hint(host)}"
    elif isinstance(error, ValueError) and not isinstance(error, OSError):
        text, hint, retriable = f"cannot make the request: {error}", "", False
    elif isinstance(error, OSError):
        text = f"connection lost: {error.strerror or error}"
    return RegistryError(f"{host}: {text}", host=host, hint=hint, retriable=retriable)
