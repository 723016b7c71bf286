"""Objects in Azure's blob storage: block blobs, and the three ways to be allowed to use them.

Source: Azure Storage REST API Reference, "Blob service", "Authorize with Shared Key".
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus

from shipline.cachestores.objects import ObjectState
from shipline.cachestores.service import Service
from shipline.cachestores.transfer import AT_ONCE
from shipline.content import Advance
from shipline.errors import NotFound
from shipline.registry.request import ClientRequest, Url
from shipline.tasks import ordered_map
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse

API_VERSION = "2023-11-03"
_VERSION = {"x-ms-version": API_VERSION}
_BLOCK_BLOB = {"x-ms-blob-type": "BlockBlob"}
_LOST = frozenset({409, 412})  # another writer was first
_SIGNED_HEADERS = (
    *("content-encoding", "content-language", "content-length", "content-md5", "content-type"),
    *("date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"),
)


def sign_shared_key(
    account: str, key: bytes, now: datetime, request: ClientRequest
) -> ClientRequest:
    """The request with the signature of an account's key."""
    headers = {**request.headers, "x-ms-date": format_datetime(now, usegmt=True)}
    lower = {name.lower(): text for name, text in headers.items()}
    if request.length:
        lower["content-length"] = str(request.length)
    path, _, query = request.url.target.partition("?")
    resource = f"/{account}{path}"
    for name, text in sorted(pair.partition("=")[::2] for pair in query.split("&") if pair):
        resource += f"\n{unquote_plus(name).lower()}:{unquote_plus(text)}"
    signed = [request.method, *(lower.get(name, "") for name in _SIGNED_HEADERS)]
    signed += [f"{name}:{lower[name]}" for name in sorted(lower) if name.startswith("x-ms-")]
    digest = hmac.digest(key, "\n".join((*signed, resource)).encode(), "sha256")
    signature = base64.b64encode(digest).decode()
    authorization = f"SharedKey {account}:{signature}"
    return replace(request, headers={**headers, "Authorization": authorization})


def sign_with_query(signature: str, request: ClientRequest) -> ClientRequest:
    """The request with a shared access signature, which is a query."""
    mark = "&" if "?" in request.url.target else "?"
    url = replace(request.url, target=f"{request.url.target}{mark}{signature}")
    return replace(request, url=url)


def upload_blob(
    service: Service, url: Url, pieces: Iterator[bytes], advance: Advance, *, operation: str
) -> None:
    """Write a block blob: the blocks at once, then the list that makes them a blob."""

    def block(numbered: tuple[int, bytes]) -> str:
        number, body = numbered
        name = base64.b64encode(b"%016d" % number).decode()
        service.finish(
            "PUT",
            url.with_query(("comp", "block"), ("blockid", name)),
            expect={201},
            operation=operation,
            headers=_VERSION,
            body=body,
            limit="write",
        )
        advance(len(body))
        return name

    names = list(ordered_map(block, enumerate(pieces), workers=AT_ONCE, ahead=0))
    listed = "".join(f"<Latest>{name}</Latest>" for name in names)
    service.finish(
        "PUT",
        url.with_query(("comp", "blocklist")),
        expect={201},
        operation=operation,
        headers=_VERSION,
        body=f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode(),
        limit="write",
    )


def put_blob(
    service: Service,
    url: Url,
    body: bytes,
    *,
    operation: str,
    condition: Mapping[str, str] | None = None,
) -> bool:
    """Write a small blob with one request; False if the headers of `condition` forbid it."""
    status, _ = service.finish(
        "PUT",
        url,
        expect={201, *(_LOST if condition else ())},
        operation=operation,
        headers={**_VERSION, **_BLOCK_BLOB, **(condition or {})},
        body=body,
        limit="write",
    )
    return status == 201


def get_blob(service: Service, url: Url, *, operation: str, start: int, end: int) -> ClientResponse:
    """The bytes of a blob up to `end`, all if it is 0; status 200, 206, 404 or 416."""
    headers = {**_VERSION, "Range": f"bytes={start}-{end - 1}"} if end else _VERSION
    return service.send(
        "GET", url, expect={200, 206, 404, 416}, operation=operation, headers=headers, limit="read"
    )


class AzureApi:
    """An ObjectApi of one container, which is created when it is first written to."""

    def __init__(self, service: Service, container_url: Url) -> None:
        self.name = service.name
        self.conditional = True
        self._service = service
        self._root = container_url
        self._absent = False

    def head(self, key: str) -> ObjectState | None:
        response = self._service.send(
            "HEAD",
            self._url(key),
            expect={200, 404},
            operation=f"looking for {key}",
            headers=_VERSION,
        )
        response.close()
        self._note(response)
        return ObjectState.of(response) if response.status == 200 else None

    def get(self, key: str, start: int = 0, end: int = 0) -> ClientResponse:
        operation = f"reading {key}"
        response = get_blob(
            self._service, self._url(key), operation=operation, start=start, end=end
        )
        if response.status == 404:
            response.close()
            self._note(response)
            raise NotFound(f"{self.name} has no {key}", code="cache-entry-gone")
        return response

    def put(self, key: str, body: bytes, condition: Mapping[str, str]) -> bool:
        self._create_if_absent()
        operation = f"writing {key}"
        return put_blob(
            self._service, self._url(key), body, operation=operation, condition=condition
        )

    def upload(self, key: str, pieces: Iterator[bytes], advance: Advance) -> None:
        self._create_if_absent()
        upload_blob(self._service, self._url(key), pieces, advance, operation=f"writing {key}")

    def touch(self, key: str, state: ObjectState) -> None:
        """Nothing: a cache of this kind does not refresh what it has."""

    def _note(self, response: ClientResponse) -> None:
        """Remember that the container is missing, which every answer of 404 tells."""
        if response.header("x-ms-error-code") == "ContainerNotFound":
            self._absent = True

    def _create_if_absent(self) -> None:
        """Make the container if it was missing; another writer may be doing the same."""
        if self._absent:
            self._service.finish(
                "PUT",
                self._root.with_query(("restype", "container")),
                expect={201, 409},
                operation="creating the container",
                headers=_VERSION,
            )
            self._absent = False

    def _url(self, key: str) -> Url:
        return replace(self._root, target=f"{self._root.target}/{quote(key, safe='/:-._~')}")
