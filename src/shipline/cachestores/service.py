"""Requests to a storage service: its name and its hints in every error, no secret in any.

Errors of S3 and Azure are XML with a code and a message, those of GitHub's cache service JSON
(Twirp). Only these two fields are shown: the rest may repeat what was signed.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from shipline.errors import AuthError, ConfigError, RegistryError, ShiplineError
from shipline.registry.errors import BODY_LIMIT, HttpResponse, RequestRefused, clean, retry_after
from shipline.registry.http import HttpClient
from shipline.registry.request import ClientRequest, Origin, Url
from shipline.registry.retries import Retries

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse

_TRIES_IF_LIMITED = 8  # with backoff almost a minute: limits of rates end after a while
Sign = Callable[[ClientRequest], ClientRequest]
Clock = Callable[[], datetime]
_P = ParamSpec("_P")


def unsigned(request: ClientRequest) -> ClientRequest:
    """The request as it is, where its URL carries the permission."""
    return request


def _finished(
    send: Callable[Concatenate[Service, _P], ClientResponse],
) -> Callable[Concatenate[Service, _P], tuple[int, bytes]]:
    """Like `send`; returns the status and a small body."""

    def finish(service: Service, /, *args: _P.args, **options: _P.kwargs) -> tuple[int, bytes]:
        with closing(send(service, *args, **options)) as response:
            return response.status, response.content(BODY_LIMIT)

    return finish


@dataclass(frozen=True, slots=True)
class Service:
    """A service as one cache sees it; `name` is the cache in messages, `denied` the hint for 401
    and 403. `linked_from` is the server that announced the URLs, if one did.
    """

    http: HttpClient
    name: str
    denied: str
    sign: Sign = field(default=unsigned, repr=False)
    linked_from: Origin | None = None

    def send(
        self,
        method: str,
        url: Url,
        *,
        expect: Collection[int],
        operation: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        limit: str = "small",
    ) -> ClientResponse:
        """The response, if its status is one of `expect`; the caller closes it.

        Follows no redirect, for which the request is not signed. Raises AuthError, RegistryError.
        """
        request = self.sign(ClientRequest(method, url, headers or {}, body))
        retries, tries = Retries(_TRIES_IF_LIMITED, self.http.tries - 1), self.http.tries
        while True:
            try:
                return self.http.call(
                    request,
                    expect=expect,
                    operation=operation,
                    limit=limit,
                    tries=tries,
                    redirects=0,
                    linked_from=self.linked_from,
                    explain=self.error,
                )
            except RequestRefused as error:
                if error.status != 429 or self.http.tries == 1:
                    raise
                retries.failed(error)
                tries = 1

    finish = _finished(send)

    def error(self, response: HttpResponse, operation: str) -> ShiplineError:
        """The exception for `response`, which is closed; its first diagnostic is the code."""
        status, host = response.status, response.url.origin.authority
        try:
            code, text = error_fields(response.content(BODY_LIMIT))
        except RegistryError:
            code, text = "", ""
        finally:
            response.close()
        code = code or clean(response.header("x-ms-error-code"))  # after HEAD
        detail = ": ".join(filter(None, (code, text)))
        message = f"{self.name}: {operation}: {host} answers {status}"
        message += f": {detail}" if detail else ""
        if status in (401, 403):
            return AuthError(
                message, code="cache-login", host=host, status=status, hint=self.denied
            )
        return RequestRefused(
            message,
            code="cache-refused",
            host=host,
            status=status,
            hint=self._hint(response),
            diagnostics=(code,) if code else (),
            retry_after_s=retry_after(response.header("Retry-After")),
        )

    def _hint(self, response: HttpResponse) -> str:
        region = response.header("x-amz-bucket-region")
        if region and response.status in (301, 307, 400):
            return f"the bucket is in another region: write region={clean(region)}"
        if response.status == 429:
            return "the service limits how many requests a repository or an account makes"
        return "the service failed; the next build tries again" if response.status >= 500 else ""


def error_fields(body: bytes) -> tuple[str, str]:
    """Code and message of an error body, made safe for a terminal; empty where it has none."""
    text = body.decode("utf-8", "replace").lstrip("\ufeff")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return _element("Code", text), _element("Message", text).partition("RequestId:")[0].strip()
    if not isinstance(document, dict):
        return "", ""
    code = document.get("code") or document.get("typeKey") or document.get("error")
    found = (document.get(name) for name in ("msg", "message", "error_description"))
    message = next((one for one in found if isinstance(one, str) and one), "")
    return clean(code) if isinstance(code, str) else "", clean(message)


def _element(name: str, text: str) -> str:
    found = re.search(rf"<{name}>([^<]{{1,2000}})</{name}>", text)
    return clean(html.unescape(found[1])) if found else ""


def element(name: str, body: bytes) -> str:
    """The text of the first XML element of that name, exactly; empty if there is none."""
    found = re.search(rf"<{name}>([^<]{{1,4096}})</{name}>".encode(), body)
    return html.unescape(found[1].decode("utf-8", "replace")) if found else ""


def json_object(body: bytes) -> Mapping[str, object]:
    """A JSON object; empty if the body is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def small_file(file: Path) -> str:
    """The text of a file that holds a token. Raises ConfigError."""
    try:
        with file.open("rb") as opened:
            return opened.read(BODY_LIMIT).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise ConfigError(f"{file} cannot be read: {reason}", code="file-unreadable") from None


def utc_now() -> datetime:
    return datetime.now(UTC)
