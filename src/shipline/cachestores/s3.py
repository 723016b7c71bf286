"""Objects in S3, and in what speaks its protocol: MinIO, Ceph, R2, Google's XML API.

Source: Amazon S3 API Reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape as xml_escape

from shipline.cachestores.aws import escape
from shipline.cachestores.objects import ObjectState
from shipline.cachestores.service import Service, element, error_fields
from shipline.content import Advance
from shipline.errors import NotFound, RegistryError, ShiplineError
from shipline.registry.errors import RequestRefused
from shipline.registry.request import Url
from shipline.tasks import ordered_map

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse

_LARGEST_COPY = 5 << 30  # bytes of one copy
_LOST = {"If-None-Match": {409, 412}, "If-Match": {404, 409, 412}}  # another writer was first


class S3Api:
    """An ObjectApi of one bucket, whose URL ends with a slash."""

    def __init__(self, service: Service, bucket_url: Url, bucket: str, at_once: int) -> None:
        self.name = service.name
        self.conditional = True
        self._service = service
        self._root = bucket_url
        self._bucket = bucket
        self._at_once = at_once

    def head(self, key: str) -> ObjectState | None:
        response = self._service.send(
            "HEAD", self._url(key), expect={200, 404}, operation=f"looking for {key}"
        )
        response.close()
        return ObjectState.of(response) if response.status == 200 else None

    def get(self, key: str, start: int = 0, end: int = 0) -> ClientResponse:
        response = self._service.send(
            "GET",
            self._url(key),
            expect={200, 206, 404, 416},
            operation=f"reading {key}",
            headers={"Range": f"bytes={start}-{end - 1}"} if end else None,
            limit="read",
        )
        if response.status == 404:
            error = self._service.error(response, f"reading {key}")
            absent = isinstance(error, RequestRefused) and error.diagnostics != ("NoSuchBucket",)
            raise (
                NotFound(f"{self.name} has no {key}", code="cache-entry-gone") if absent else error
            )
        return response

    def put(self, key: str, body: bytes, condition: Mapping[str, str]) -> bool:
        lost = {status for name in condition for status in _LOST[name]}
        try:
            status, _ = self._service.finish(
                "PUT",
                self._url(key),
                expect={200, *lost},
                operation=f"writing {key}",
                headers=condition,
                body=body,
                limit="write",
            )
        except RequestRefused as error:
            if not condition or error.status not in (400, 501):
                raise
            self.conditional = False  # the service does not know conditions
            return self.put(key, body, {})
        return status == 200

    def upload(self, key: str, pieces: Iterator[bytes], advance: Advance) -> None:
        def send(upload: str) -> Iterator[str]:
            def part(numbered: tuple[int, bytes]) -> str:
                number, body = numbered
                query = (("partNumber", str(number)), ("uploadId", upload))
                tag = self._part(key, query, {}, body)
                advance(len(body))
                return tag

            yield from ordered_map(part, enumerate(pieces, 1), workers=self._at_once, ahead=0)

        self._multipart(key, send)

    def touch(self, key: str, state: ObjectState) -> None:
        source = {"x-amz-copy-source": "/" + escape(f"{self._bucket}/{key}", safe="/")}
        if state.size < _LARGEST_COPY:
            headers = {**source, "x-amz-metadata-directive": "REPLACE"}
            self._write("PUT", self._url(key), f"touching {key}", headers=headers)
            return

        def send(upload: str) -> Iterator[str]:
            for number, start in enumerate(range(0, state.size, _LARGEST_COPY), 1):
                end = min(start + _LARGEST_COPY, state.size)
                span = {**source, "x-amz-copy-source-range": f"bytes={start}-{end - 1}"}
                yield self._part(key, (("partNumber", str(number)), ("uploadId", upload)), span)

        self._multipart(key, send)

    def _multipart(self, key: str, send: Callable[[str], Iterator[str]]) -> None:
        """An upload of the parts whose ETags `send` gives; aborted if that fails."""
        started = self._write("POST", self._url(key, ("uploads", "")), f"starting {key}")
        upload = element("UploadId", started)
        if not upload:
            raise RegistryError(
                f"{self.name}: the upload of {key} has no id", code="cache-refused", host=""
            )
        url = self._url(key, ("uploadId", upload))
        try:
            listed = "".join(
                f"<Part><PartNumber>{number}</PartNumber><ETag>{xml_escape(tag)}</ETag></Part>"
                for number, tag in enumerate(send(upload), 1)
            )
            document = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
            self._write("POST", url, f"completing {key}", body=document.encode())
        except BaseException:
            with suppress(ShiplineError):
                self._service.finish("DELETE", url, expect={204, 404}, operation="aborting")
            raise

    def _part(
        self,
        key: str,
        query: tuple[tuple[str, str], ...],
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> str:
        """The ETag of a part, of `body` or, as `headers` say, of another object."""
        url, operation = self._url(key, *query), f"writing {key}"
        response = self._service.send(
            "PUT", url, expect={200}, operation=operation, headers=headers, body=body, limit="write"
        )
        tag = response.header("ETag")
        document = self._checked(response.content(64 << 10), operation)
        response.close()
        return tag or element("ETag", document)

    def _write(
        self,
        method: str,
        url: Url,
        operation: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> bytes:
        _, document = self._service.finish(
            method,
            url,
            expect={200},
            operation=operation,
            headers=headers,
            body=body,
            limit="write",
        )
        return self._checked(document, operation)

    def _checked(self, document: bytes, operation: str) -> bytes:
        """Copies and completions fail with status 200 and an error as body."""
        if re.search(rb"<Error[ >]", document):
            detail = ": ".join(filter(None, error_fields(document)))
            raise RegistryError(
                f"{self.name}: {operation}: {detail}", code="cache-refused", host="", retriable=True
            )
        return document

    def _url(self, key: str, *query: tuple[str, str]) -> Url:
        target = self._root.target + escape(key, safe="/")
        if query:
            target += "?" + "&".join(f"{escape(name)}={escape(text)}" for name, text in query)
        return Url(self._root.origin, target)


def bucket_url(bucket: str, region: str, endpoint: str, domain: str, *, path_style: bool) -> Url:
    """Where a bucket's objects are: the bucket is part of the host name, or of the path.

    Names with dots match no wildcard certificate, so they go into the path.
    """
    base = Url.parse(endpoint or f"https://s3.{region}.{domain}/")
    path = base.path.rstrip("/") + "/"
    if path_style or (not endpoint and "." in bucket):
        return Url(base.origin, f"{path}{escape(bucket)}/")
    host = Url.parse(f"{base.origin.scheme}://{bucket}.{base.origin.authority}/")
    return Url(host.origin, path)
