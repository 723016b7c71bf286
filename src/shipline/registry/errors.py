"""Error responses of a registry: status and body as one exception with a hint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from shipline.errors import AuthError, RegistryError, ShiplineError
from shipline.registry.limits import RateLimit
from shipline.registry.request import Url

RETRIED = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 522})
BODY_LIMIT = 64 << 10  # bytes of an error body
_HTTP_TO_HTTPS = "HTTP request to an HTTPS server"  # the message of Go's servers
_MAX_MESSAGE = 300  # characters
_SCOPE_HINT = (
    "an account with this right is needed: ask for it, or log in with `shipline login {host}`"
)

_HINTS = {
    401: "log in with `shipline login {host}`, or check that the password or token is still valid",
    403: "unless a rule is named, the account lacks permission: request it or log in as another",
    404: "check the name; a private repository looks absent without access",
    407: "the proxy requires credentials: http://user:password@host:port in HTTP_PROXY",
    405: "unless a reason is named, the registry has this operation disabled",
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


class Unreachable(RegistryError):
    """A server does not take connections, or does not answer in time."""


class InvalidResponse(RegistryError):
    """A response is not what the distribution specification says; messages begin with `host`."""

    code = "registry-answer"

    def __init__(self, host: str, problem: str, *, hint: str = "", retriable: bool = False) -> None:
        super().__init__(f"{host}: {problem}", host=host, hint=hint, retriable=retriable)


class RequestRefused(RegistryError):
    """A registry refused a request."""

    def __init__(
        self,
        message: str,
        *,
        host: str,
        status: int,
        code: str = "",
        hint: str = "",
        diagnostics: tuple[str, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(
            message,
            host=host,
            code=code,
            status=status,
            diagnostics=diagnostics,
            hint=hint,
            retriable=status in RETRIED,
        )
        self.retry_after_s = retry_after_s


class TokenExpired(RequestRefused):
    """A blob was refused for its token: ask how much of it was kept, and go on with another one."""

    code = "token-expired"

    def __init__(self, host: str) -> None:
        super().__init__(f"{host}: the token expired during an upload", host=host, status=401)
        self.retriable = True


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
    may_not = status == 403
    if status == 401 and "insufficient_scope" in response.header("WWW-Authenticate"):
        may_not = True  # the login was good for a token
    refuses = host if status != 401 or may_not else f"{host} refuses the login"
    message = f"{refuses}: {operation}: {status}"
    message += f": {clean(detail)}" if detail else f" {_reason(status)}".rstrip()
    hint = _SCOPE_HINT if may_not and status == 401 else _HINTS.get(status, "")
    hint = hint.format(host=host)
    if status == 400 and _HTTP_TO_HTTPS in detail:
        hint = tls_hint(host)
    if status in (401, 403):
        code = "login-insufficient" if may_not else "login-refused"
        return AuthError(message, code=code, host=host, status=status, hint=hint)
    if status == 429 and (rate := RateLimit.read(response.header)):
        hint += f"; {host} allows {rate}"
    if status in RETRIED and not hint:
        hint = "the registry failed; try again later"
    return RequestRefused(
        message,
        code="registry-rate-limit"
        if status == 429
        else "registry-failed"
        if status >= 500
        else "registry-refused",
        host=host,
        status=status,
        hint=hint,
        diagnostics=tuple(code for code, _ in diagnostics if code),
        retry_after_s=retry_after(response.header("Retry-After")),
    )


def _reason(status: int) -> str:
    from http import HTTPStatus

    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


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
    except (ValueError, OverflowError):
        return None


_MAX_WARNINGS = 4096  # bytes of all of them (distribution specification, "Warnings")


def warnings(values: Iterable[str]) -> Iterator[str]:
    """The texts of `Warning` headers of the form that the specification allows, fit for a terminal:
    code 299, the agent `-`, a quoted text and no date.
    """
    for value in values:
        match = re.fullmatch(r'299 - "((?:[^"\\]|\\.)*)"', value[:_MAX_WARNINGS].strip())
        if match and (text := clean(re.sub(r"\\(.)", r"\1", match[1]))):
            yield text


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
