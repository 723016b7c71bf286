"""S3, Azure's blob storage and the cache of GitHub Actions in one server, in memory, which answers
as it is told instead of as it should.

`spoil` gets each request and the right reply, and returns what is sent: another reply, or a
function that does with the socket what it likes. Nothing here checks a signature.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from peers.actions_cache import ActionsCache, Refused, answering

_TWIRP = "/twirp/github.actions.results.api.v1.CacheService/"
Query = Mapping[str, list[str]]


@dataclass(frozen=True)
class CacheRequest:
    """A request; `number` counts those of this server."""

    number: int
    method: str
    path: str
    query: Query
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class CacheReply:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str = "Reason"

    def raw(self, method: str) -> bytes:
        headers = {"Content-Length": str(len(self.body)), "Connection": "close", **self.headers}
        lines = [f"HTTP/1.1 {self.status} {self.reason}"]
        lines += [f"{name}: {text}" for name, text in headers.items() if text]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        return head + (b"" if method == "HEAD" else self.body)


Act = Callable[[socket.socket], None]
Spoil = Callable[[CacheRequest, CacheReply], CacheReply | Act]


def honest(_: CacheRequest, reply: CacheReply) -> CacheReply:
    return reply


@dataclass
class HostileCaches:
    """The running server: `objects` are those of S3 and Azure by path, `actions` is GitHub's."""

    url: str
    actions: ActionsCache
    spoil: Spoil = honest
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[CacheRequest] = field(default_factory=list)
    _blocks: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def flag(self, kind: str, **more: str) -> str:
        """What --cache-from and --cache-to take for a cache of type s3, azblob or gha."""
        given = {"name": "app"}
        if kind == "s3":
            given |= {"bucket": "bucket", "region": "r", "endpoint_url": self.url}
            given |= {"use_path_style": "true"}
            given |= {"access_key_id": "AKIDHOSTILE", "secret_access_key": "Secret+of/S3=="}
            given |= {"session_token": "SessionTokenOfS3"}
        elif kind == "azblob":
            given |= {"account_url": f"{self.url}/account", "account_name": "account"}
            given |= {"sas": "sv=2024&sig=SignatureOfAzure"}
        else:
            given = {"url_v2": f"{self.url}/", "token": self.token, "scope": "app"}
        return ",".join(
            [f"type={kind}", *(f"{key}={text}" for key, text in (given | more).items())]
        )

    @property
    def token(self) -> str:
        return self.actions.token(("refs/heads/main", 3))

    def reply(self, request: CacheRequest) -> CacheReply:
        """The right one."""
        with self._lock:
            self.requests.append(request)
        if request.path.startswith(_TWIRP):
            return self._call(request)
        if request.path.startswith("/storage/"):
            return self._storage(request)
        if request.path.startswith("/account/") and request.query.get("comp"):
            return self._azure_blocks(request)
        if "uploads" in request.query or "uploadId" in request.query:
            return self._s3_parts(request)
        return self._object(request)

    def _call(self, request: CacheRequest) -> CacheReply:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        method = request.path.removeprefix(_TWIRP)
        try:
            found = self.actions.call(method, token, json.loads(request.body))
        except Refused as refused:
            body = json.dumps({"code": refused.code, "msg": refused.text}).encode()
            return CacheReply(refused.status, body)
        return CacheReply(200, json.dumps(found).encode())

    def _storage(self, request: CacheRequest) -> CacheReply:
        signature = request.query.get("sig", [""])[0]
        try:
            if request.method == "PUT":
                self.actions.store(signature, request.query, request.body)
                return CacheReply(201)
            return _ranged(self.actions.content(signature), request)
        except Refused as refused:
            return CacheReply(
                refused.status, f"<Error><Code>{refused.code}</Code></Error>".encode()
            )

    def _azure_blocks(self, request: CacheRequest) -> CacheReply:
        if request.query["comp"] == ["block"]:
            self._blocks[request.path + request.query["blockid"][0]] = request.body
        else:
            names = re.findall(r"<Latest>([^<]+)</Latest>", request.body.decode())
            whole = b"".join(self._blocks[request.path + name] for name in names)
            self.objects[request.path] = whole
        return CacheReply(201)

    def _s3_parts(self, request: CacheRequest) -> CacheReply:
        if request.method == "PUT":
            self._blocks[f"{request.path} {request.query['partNumber'][0]}"] = request.body
            return CacheReply(200, headers={"ETag": _tag(request.body)})
        if request.method == "DELETE":
            return CacheReply(204)
        if "uploads" in request.query:
            return CacheReply(200, b"<Upload><UploadId>1</UploadId></Upload>")
        numbers = re.findall(r"<PartNumber>(\d+)<", request.body.decode())
        whole = b"".join(self._blocks[f"{request.path} {number}"] for number in numbers)
        self.objects[request.path] = whole
        return CacheReply(200, b"<Completed/>")

    def _object(self, request: CacheRequest) -> CacheReply:
        key, azure = request.path, request.path.startswith("/account/")
        with self._lock:
            present = self.objects.get(key)
            if request.method in ("GET", "HEAD"):
                return CacheReply(404) if present is None else _ranged(present, request)
            tag = _tag(present) if present is not None else ""
            headers = request.headers
            if (headers.get("if-none-match") and tag) or headers.get("if-match", tag) != tag:
                return CacheReply(412)
            if not request.query.get("restype"):
                self.objects[key] = request.body
        return CacheReply(201 if azure else 200, headers={"ETag": _tag(request.body)})


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _ranged(content: bytes, request: CacheRequest) -> CacheReply:
    headers = {"ETag": _tag(content), "Last-Modified": "Mon, 30 Nov 2026 10:00:00 GMT"}
    span = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
    if span is None:
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(content))
        return CacheReply(200, content, headers)
    start, end = int(span[1]), int(span[2]) + 1
    if start >= len(content):
        return CacheReply(416, b"", headers)
    piece = content[start:end]
    place = f"bytes {start}-{start + len(piece) - 1}/{len(content)}"
    return CacheReply(206, piece, {**headers, "Content-Range": place})


@contextmanager
def hostile_caches() -> Iterator[HostileCaches]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            request = CacheRequest(
                len(service.requests),
                self.command,
                unquote(parts.path),
                parse_qs(parts.query, keep_blank_values=True),
                {name.lower(): text for name, text in self.headers.items()},
                body,
            )
            self.close_connection = True
            found = service.spoil(request, service.reply(request))
            with suppress(OSError):
                if isinstance(found, CacheReply):
                    self.connection.sendall(found.raw(self.command))
                else:
                    found(self.connection)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    with answering(Handler) as url:
        service = HostileCaches(url, ActionsCache(url, url))
        yield service
