"""The cache service of GitHub Actions, version 2, with its rules, and the storage behind it.

Entries are reserved, uploaded by a signed URL in Azure's protocol, finalized, and then never
change. A token reads the entries of its branches in their order, and writes those of one. What was
not used for longest is evicted. Sources: the clients `actions/toolkit` and `go-actions-cache`.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

READ, WRITE = 1, 2
_CALLS = "/twirp/github.actions.results.api.v1.CacheService/"
Fields = dict[str, object]


@dataclass
class Stored:
    """An entry; `content` is None until it is uploaded, it counts once it is `final`."""

    id: int
    scope: str
    key: str
    version: str
    content: bytes | None = None
    blocks: dict[str, bytes] = field(default_factory=dict)
    final: bool = False
    used: int = 0


class Refused(Exception):
    def __init__(self, status: int, code: str, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.code, self.text, self.headers = status, code, text, headers


@dataclass
class ActionsCache:
    """The running service. `room` is what it keeps in bytes, `allowed` how many entries may still
    be created before it answers 429, `announced` the origin of the URLs that it signs.
    """

    url: str
    announced: str
    room: int = 10 << 30
    allowed: int = 1 << 30
    retry_after: str = "1"
    calls: list[str] = field(default_factory=list)
    entries: list[Stored] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._tokens: dict[str, list[tuple[str, int]]] = {}
        self._signatures: dict[str, Stored] = {}

    def token(self, *scopes: tuple[str, int], lifetime_s: float = 3600) -> str:
        """A token for branches, as a job has it."""
        now = time.time()
        listed = [{"Scope": scope, "Permission": permission} for scope, permission in scopes]
        claims = {"nbf": int(now) - 10, "exp": int(now + lifetime_s), "ac": json.dumps(listed)}
        parts = ({"alg": "RS256", "typ": "JWT"}, {**claims, "jti": next(self._numbers)})
        encoded = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode() for one in parts]
        text = ".".join([*(one.rstrip("=") for one in encoded), "c2lnbmF0dXJl"])
        self._tokens[text] = list(scopes)
        return text

    def keys(self) -> list[str]:
        """The keys of all that is final, in the order of creation."""
        return [entry.key for entry in self.entries if entry.final]

    def expire_urls(self) -> None:
        """From here on no URL that was signed before allows anything."""
        self._signatures.clear()

    def call(self, method: str, token: str, fields: Fields) -> Fields:
        with self._lock:
            self.calls.append(method)
            scopes = self._tokens.get(token)
            if scopes is None:
                raise Refused(401, "unauthenticated", "the token is not valid")
            if method == "CreateCacheEntry":
                return self._create(scopes, fields)
            if method == "FinalizeCacheEntryUpload":
                return self._finalize(scopes, fields)
            if method == "GetCacheEntryDownloadURL":
                return self._find(scopes, fields)
        raise Refused(404, "bad_route", "no such method")

    def _create(self, scopes: list[tuple[str, int]], fields: Fields) -> Fields:
        scope, key, version = self._writable(scopes), fields["key"], fields["version"]
        assert isinstance(key, str) and isinstance(version, str) and "," not in key
        if self._entry(scope, key, version) is not None:
            raise Refused(409, "already_exists", "cache entry with the same key already exists")
        if self.allowed <= 0:
            headers = {"Retry-After": self.retry_after}
            self.allowed = 1 << 30
            raise Refused(429, "resource_exhausted", "too many new entries", **headers)
        self.allowed -= 1
        entry = Stored(next(self._numbers), scope, key, version)
        self.entries.append(entry)
        return {"ok": True, "signed_upload_url": self._signed(entry, "w")}

    def _finalize(self, scopes: list[tuple[str, int]], fields: Fields) -> Fields:
        scope, key, version = self._writable(scopes), fields["key"], fields["version"]
        entry = self._entry(scope, str(key), str(version))
        if entry is None or entry.final:
            raise Refused(404, "not_found", "no such reservation")
        if entry.content is None or len(entry.content) != int(str(fields["size_bytes"])):
            raise Refused(400, "invalid_argument", "the size does not match the upload")
        entry.final, entry.used = True, next(self._numbers)
        for signature in [key for key, one in self._signatures.items() if one is entry]:
            del self._signatures[signature]
        self._evict()
        return {"ok": True, "entry_id": str(entry.id)}

    def _find(self, scopes: list[tuple[str, int]], fields: Fields) -> Fields:
        keys = fields["restore_keys"] or []
        assert isinstance(keys, list)
        for scope, permission in scopes:
            mine = [
                one
                for one in self.entries
                if one.final and one.scope == scope and one.version == fields["version"]
            ]
            exact = [one for one in mine if one.key == fields["key"]]
            near = [one for prefix in keys for one in reversed(mine) if one.key.startswith(prefix)]
            if permission & READ and (found := exact or near):
                found[0].used = next(self._numbers)
                url = self._signed(found[0], "r")
                return {"ok": True, "signed_download_url": url, "matched_key": found[0].key}
        return {"ok": False, "signed_download_url": "", "matched_key": ""}

    def listed(self, token: str, key: str, ref: str) -> list[Fields]:
        """What the REST API lists, which takes another token in reality."""
        return [
            {"id": one.id, "key": one.key, "ref": one.scope}
            for one in self.entries
            if one.final and one.key.startswith(key) and one.scope == ref and token
        ]

    def store(self, signature: str, query: Mapping[str, list[str]], body: bytes) -> None:
        with self._lock:
            entry = self._allowed(signature, "w")
            command = query.get("comp", [""])[0]
            if command == "block":
                entry.blocks[query["blockid"][0]] = body
            elif command == "blocklist":
                names = re.findall(r"<Latest>([^<]+)</Latest>", body.decode())
                entry.content = b"".join(entry.blocks[name] for name in names)
            else:
                entry.content = body

    def content(self, signature: str) -> bytes:
        with self._lock:
            content = self._allowed(signature, "r").content
        assert content is not None
        return content

    def _allowed(self, signature: str, right: str) -> Stored:
        entry = self._signatures.get(signature)
        if entry is None or not signature.endswith(right):
            raise Refused(403, "AuthenticationFailed", "Signature did not match.")
        if entry not in self.entries:
            raise Refused(404, "BlobNotFound", "The specified blob does not exist.")
        return entry

    def _signed(self, entry: Stored, right: str) -> str:
        signature = f"secret{next(self._numbers)}{right}"
        self._signatures[signature] = entry
        return f"{self.announced}/storage/{entry.id}?sp={right}&sig={signature}"

    def _entry(self, scope: str, key: str, version: str) -> Stored | None:
        wanted = (scope, key, version)
        fits = (one for one in self.entries if (one.scope, one.key, one.version) == wanted)
        return next(fits, None)

    def _writable(self, scopes: list[tuple[str, int]]) -> str:
        for scope, permission in scopes:
            if permission & WRITE:
                return scope
        raise Refused(403, "permission_denied", "the token may not write")

    def _evict(self) -> None:
        whole = [one for one in self.entries if one.final]
        while sum(len(one.content or b"") for one in whole) > self.room:
            oldest = min(whole, key=lambda one: one.used)
            whole.remove(oldest)
            self.entries.remove(oldest)


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a server whose requests `handler` answers; one that still waits is left alone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that went away
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def actions_cache() -> Iterator[ActionsCache]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            query = parse_qs(parts.query, keep_blank_values=True)
            try:
                if parts.path.startswith("/storage/"):
                    self._storage(query, body)
                elif parts.path.startswith("/repos/"):
                    found = service.listed(self._bearer(), query["key"][0], query["ref"][0])
                    page, size = int(query["page"][0]), int(query["per_page"][0])
                    self._json(200, {"actions_caches": found[(page - 1) * size : page * size]})
                else:
                    method = parts.path.removeprefix(_CALLS)
                    self._json(200, service.call(method, self._bearer(), json.loads(body)))
            except Refused as refused:
                self._refuse(refused, storage=parts.path.startswith("/storage/"))

        def _bearer(self) -> str:
            return str(self.headers.get("Authorization") or "").removeprefix("Bearer ")

        def _storage(self, query: Mapping[str, list[str]], body: bytes) -> None:
            assert "Authorization" not in self.headers and self.headers["x-ms-version"]
            if self.command == "PUT":
                service.store(query["sig"][0], query, body)
                self._send(201, b"")
                return
            content = service.content(query["sig"][0])
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if span is None:
                self._send(200, content)
                return
            start, end = int(span[1]), int(span[2] or len(content)) + 1
            if start >= len(content):
                raise Refused(416, "InvalidRange", "The range is invalid.")
            piece = content[start:end]
            place = f"bytes {start}-{start + len(piece) - 1}/{len(content)}"
            self._send(206, piece, **{"Content-Range": place})

        def _refuse(self, refused: Refused, *, storage: bool) -> None:
            if storage:
                text = (
                    f"<Error><Code>{refused.code}</Code><Message>{refused.text}</Message></Error>"
                )
                self._send(refused.status, text.encode(), **refused.headers)
            else:
                self._json(
                    refused.status, {"code": refused.code, "msg": refused.text}, **refused.headers
                )

        def _json(self, status: int, fields: Fields, **headers: str) -> None:
            self._send(status, json.dumps(fields).encode(), **headers)

        def _send(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            always = {"Content-Length": str(len(body)), "x-ms-request-id": "1"}  # BuildKit wants it
            for name, text in {**headers, **always}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    with answering(Handler) as url:
        service = ActionsCache(url, url)
        yield service
