"""What a registry meant by saying no: status and body as one error with a hint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Protocol

from shipline.errors import AuthError, RegistryError, ShiplineError
from shipline.registry.origin import Url

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
