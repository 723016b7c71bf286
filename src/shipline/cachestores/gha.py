"""The cache of GitHub Actions, with BuildKit's names in it.

The cache service, version 2, speaks Twirp: an entry is reserved, uploaded to Azure's blob storage
by a signed URL, and finalized; it never changes after that. So each new cache document has a higher
number. Entries belong to a branch, and a build reads those of its branch, of its base and of the
default branch: the token says which. Source: BuildKit's `cache/remotecache/gha`, go-actions-cache.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

from shipline.cachestores.azblob import get_blob, put_blob, upload_blob
from shipline.cachestores.service import Service, json_object
from shipline.cachestores.transfer import PIECE, RangedReader, parts, read_document
from shipline.content import Advance, Fetcher, VerifiedReader
from shipline.content.cache_store import Merge
from shipline.errors import AuthError, NotFound, RegistryError
from shipline.oci import Descriptor
from shipline.registry.errors import RequestRefused
from shipline.registry.request import Url
from shipline.tasks import Once, sleep
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse

VERSION = hashlib.sha256(b"|go-actionscache-1.0").hexdigest()  # of all entries of BuildKit
_SERVICE = "twirp/github.actions.results.api.v1.CacheService"
_READ, _WRITE = 1, 2
_NUMBER = re.compile(r"[0-9]{1,18}\Z")
_HELD_S, _RETRY_S = 15.0, 2.0  # how long a reserved number is waited for, and between looks
_PAGE = 100
_MOST_PAGES = 100


@dataclass(frozen=True, slots=True)
class ActionsToken:
    """ACTIONS_RUNTIME_TOKEN: the branches to read, the best first, and the one to write, if any."""

    text: str = field(repr=False)
    readable: tuple[str, ...]
    writable: str | None

    @classmethod
    def parse(cls, text: str, now: float) -> Self:
        """Read a token, whose signature is the service's business. Raises AuthError."""
        claims = _claims(text)
        expires = claims.get("exp")
        if isinstance(expires, int | float) and expires < now:
            raise _bad_token("it has expired", "a token is valid for one job")
        listed = claims.get("ac")
        try:
            scopes = json.loads(listed) if isinstance(listed, str) else None
        except (ValueError, RecursionError):
            scopes = None
        if not isinstance(scopes, list):
            raise _bad_token("it names no scopes", "it is that of another service")
        readable, writable = [], None
        for scope in scopes:
            name, permission = (
                (scope.get("Scope"), scope.get("Permission"))
                if isinstance(scope, dict)
                else (None, None)
            )
            if isinstance(name, str) and isinstance(permission, int):
                readable += [name] if permission & _READ else []
                writable = name if permission & _WRITE else writable
        if writable in readable:
            readable.remove(writable)
            readable.insert(0, writable)
        return cls(text, tuple(readable), writable)


def _claims(text: str) -> Mapping[str, object]:
    parts = text.split(".")
    try:
        return json_object(base64.urlsafe_b64decode(parts[1] + "=="))
    except (IndexError, ValueError):
        raise _bad_token("it is not a JSON Web Token", "is it complete?") from None


def _bad_token(reason: str, hint: str) -> AuthError:
    return AuthError(
        f"the token of the Actions cache cannot be used: {reason}",
        code="actions-cache-token",
        host="",
        hint=hint,
    )


@dataclass(frozen=True, slots=True)
class ActionsEntry:
    """An entry of the cache: its whole key, and a URL that allows to read it for some time."""

    key: str
    url: Url = field(repr=False)


class ActionsService:
    """The calls of the cache service."""

    def __init__(self, service: Service, url: Url, token: ActionsToken) -> None:
        self.name = service.name
        self._service = service
        self._storage = replace(service, linked_from=url.origin)
        self._url = url
        self._token = token

    def find(self, key: str) -> ActionsEntry | None:
        """The newest entry whose key begins with `key`, one of that key first."""
        fields = {"key": key, "restore_keys": [key], "version": VERSION}
        found = self._call("GetCacheEntryDownloadURL", fields, f"looking for {key}")
        matched, url = found.get("matched_key"), found.get("signed_download_url")
        if not found.get("ok") or not isinstance(url, str) or not isinstance(matched, str):
            return None
        return ActionsEntry(matched, Url.parse(url))

    def reserve(self, key: str) -> Url | None:
        """Where to upload a new entry; None if another one has the key, complete or not."""
        fields = {"key": key, "version": VERSION}
        try:
            found = self._call("CreateCacheEntry", fields, f"reserving {key}")
        except RequestRefused as error:
            if error.status == 409 or "already_exists" in error.diagnostics:
                return None
            raise
        url = found.get("signed_upload_url")
        if not found.get("ok") or not isinstance(url, str) or not url:
            raise RegistryError(
                f"{self.name}: the service did not accept {key}", code="cache-refused", host=""
            )
        return Url.parse(url)

    def save(
        self, key: str, url: Url, pieces: Iterator[bytes], size: int, advance: Advance
    ) -> None:
        """Upload a reserved entry and make it visible."""
        operation = f"writing {key}"
        if size <= PIECE:
            put_blob(self._storage, url, b"".join(pieces), operation=operation)
            advance(size)
        else:
            upload_blob(self._storage, url, pieces, advance, operation=operation)
        fields = {"key": key, "size_bytes": size, "version": VERSION}
        if not self._call("FinalizeCacheEntryUpload", fields, f"finalizing {key}").get("ok"):
            raise RegistryError(
                f"{self.name}: the service did not finalize {key}", code="cache-refused", host=""
            )

    def read(self, entry: ActionsEntry, start: int = 0, end: int = 0) -> ClientResponse:
        """The bytes of an entry. Raises NotFound if it was evicted."""
        operation = f"reading {entry.key}"
        response = get_blob(self._storage, entry.url, operation=operation, start=start, end=end)
        if response.status == 404:
            response.close()
            raise NotFound(f"{self.name} no longer has {entry.key}", code="cache-entry-gone")
        return response

    def _call(
        self, method: str, fields: Mapping[str, object], operation: str
    ) -> Mapping[str, object]:
        url = replace(self._url, target=f"{self._url.path.rstrip('/')}/{_SERVICE}/{method}")
        headers = {
            "Authorization": f"Bearer {self._token.text}",
            "Content-Type": "application/json",
        }
        body = json.dumps(fields).encode()
        try:
            _, found = self._service.finish(
                "POST", url, expect={200}, operation=operation, headers=headers, body=body
            )
        except RequestRefused as error:
            if error.status == 404 and {*error.diagnostics} <= {"bad_route"}:
                error.hint = f"{url.origin} has no cache service of version 2"
            raise
        return json_object(found)


Lister = Callable[[str], frozenset[str]]
"""The keys of all entries that begin with a text."""


class ActionsCache:
    """A CacheStore in the cache of GitHub Actions, under a name that BuildKit calls scope.

    Reading or writing a blob, or a document, is given up after `timeout_s`. `keys` lists what there
    is, for a repository with a token of GitHub's REST API: one request in the place of one for each
    blob.
    """

    def __init__(
        self,
        service: ActionsService,
        token: ActionsToken,
        scope: str,
        *,
        timeout_s: float,
        keys: Lister | None = None,
    ) -> None:
        self._service = service
        self._token = token
        self._scope = scope
        self._timeout_s = timeout_s
        self._keys = keys
        self._listed: Once[frozenset[str]] = Once()
        self._lock = threading.Lock()
        self._entries: dict[str, ActionsEntry] = {}

    def exists(self, target: Descriptor) -> bool:
        key = _blob(target)
        if self._keys is not None:
            lister = self._keys
            return key in self._listed.get("", lambda: lister("buildkit-blob-1-"))
        return self._entry(key) is not None

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        key, check_time = _blob(target), self._timer()
        if self._entry(key) is None:
            raise NotFound(f"{self._service.name} has no {key}", code="cache-entry-gone")

        def get(start: int, end: int) -> ClientResponse:
            check_time()
            return self._read(key, start, end)

        ranges = RangedReader(get, target.size)
        with VerifiedReader(ranges, target, self._service.name) as reader:
            yield reader

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        key, check_time = _blob(target), self._timer()
        if self.exists(target):
            return
        url = self._reserve(key)
        if url is None:
            return  # written by another build, now or before
        with source.fetch(target) as reader:
            pieces = _timely(parts(reader, PIECE), check_time)
            self._service.save(key, url, pieces, target.size, advance or (lambda _: None))

    def documents(self) -> Sequence[bytes]:
        found = (self._document(self._index(scope)) for scope in self._token.readable)
        return [content for _, content in filter(None, found)]

    def update(self, merge: Merge) -> None:
        """A number that stays reserved belongs to a build that died: it is passed over."""
        writable = self._token.writable
        if writable is None:
            raise self._read_only()
        index, check_time = self._index(writable), self._timer()
        passed, held, held_since = 0, 0, 0.0
        while True:
            check_time()
            present = self._document(index)
            content = present[1] if present else None
            document = merge(content)
            if document == content:
                return
            number = max(present[0] if present else 0, passed) + 1
            key = f"{index}{number}"
            url = self._reserve(key)
            if url is not None:
                self._service.save(key, url, iter((document,)), len(document), lambda _: None)
                return
            if held != number:
                held, held_since = number, time.monotonic()
            if time.monotonic() - held_since > _HELD_S:
                passed = number
            else:
                sleep(random.uniform(0.25, 1) * _RETRY_S)

    def _timer(self) -> Callable[[], None]:
        """Raises RegistryError when called after the time for a piece of work is over."""
        deadline = time.monotonic() + self._timeout_s

        def check() -> None:
            if time.monotonic() > deadline:
                raise RegistryError(
                    f"{self._service.name}: timed out",
                    code="cache-unreachable",
                    host="",
                    hint="the service is slow or throttled: set a longer timeout=",
                )

        return check

    def _document(self, index: str) -> tuple[int, bytes] | None:
        """Number and content of the newest document."""
        entry = self._service.find(index)
        number = entry.key.removeprefix(index) if entry else ""
        if entry is None or not _NUMBER.match(number) or not entry.key.startswith(index):
            return None
        try:
            content, _ = read_document(partial(self._service.read, entry))
        except NotFound:
            return None
        return int(number), content

    def _read(self, key: str, start: int, end: int) -> ClientResponse:
        """Some bytes of a blob, by a new URL if the one at hand has expired."""
        entry = self._entry(key)
        if entry is None:
            raise NotFound(f"{self._service.name} has no {key}", code="cache-entry-gone")
        try:
            return self._service.read(entry, start, end)
        except AuthError:
            with self._lock:
                if self._entries.get(key) is entry:
                    del self._entries[key]
            fresh = self._entry(key)
            if fresh is None:
                raise
            return self._service.read(fresh, start, end)

    def _entry(self, key: str) -> ActionsEntry | None:
        """The entry of exactly this key, looked up once."""
        with self._lock:
            entry = self._entries.get(key)
        if entry is None:
            entry = self._service.find(key)
            if entry is None or entry.key != key:
                return None
            with self._lock:
                self._entries[key] = entry
        return entry

    def _reserve(self, key: str) -> Url | None:
        if self._token.writable is None:
            raise self._read_only()
        return self._service.reserve(key)

    def _read_only(self) -> AuthError:
        return AuthError(
            f"{self._service.name}: the token of this job may only read the cache",
            code="actions-cache-token",
            host="",
            hint="pull requests from forks may only read: write the cache in other jobs",
        )

    def _index(self, github_scope: str) -> str:
        """What the keys of the documents of a branch begin with; a number follows."""
        branch = hashlib.sha256(github_scope.encode()).hexdigest()[:8]
        return f"index-{self._scope}-1-{branch}#"


def _timely(pieces: Iterator[bytes], check_time: Callable[[], None]) -> Iterator[bytes]:
    for piece in pieces:
        check_time()
        yield piece


def _blob(target: Descriptor) -> str:
    return f"buildkit-blob-1-{target.digest}"


def list_keys(
    service: Service, api: Url, repository: str, token: ActionsToken, prefix: str
) -> frozenset[str]:
    """The keys that a token can read, by GitHub's REST API ("List GitHub Actions caches")."""
    keys = set()
    base = replace(api, target=f"{api.path.rstrip('/')}/repos/{repository}/actions/caches")
    for ref in token.readable:
        for page in range(1, _MOST_PAGES + 1):
            query = (("key", prefix), ("ref", ref), ("per_page", str(_PAGE)), ("page", str(page)))
            response = service.send(
                "GET",
                base.with_query(*query),
                expect={200},
                operation="listing the cache",
                headers={"Accept": "application/vnd.github+json"},
            )
            with closing(response):
                found = json_object(response.content(4 << 20)).get("actions_caches")
            entries = found if isinstance(found, list) else []
            found_keys = (one.get("key") for one in entries if isinstance(one, dict))
            keys |= {one for one in found_keys if isinstance(one, str)}
            if len(entries) < _PAGE:
                break
    return frozenset(keys)
