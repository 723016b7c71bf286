"""A repository of a registry: the protocols of `content` over HTTP."""

from __future__ import annotations

import io
import json
import math
import re
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from copy import copy
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from shipline.content import Advance, Fetcher, VerifiedReader, again_elsewhere, fetch_all, unwrapped
from shipline.errors import (
    AuthError,
    ContentError,
    DigestMismatch,
    NotFound,
    RegistryError,
    ShiplineError,
)
from shipline.lru import Lru
from shipline.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    Digest,
    check_repository,
    check_tag,
    is_tag,
    media,
)
from shipline.registry.download import Download, noting_mirrors
from shipline.registry.ingest import RemoteIngest, RemoteUpload
from shipline.registry.manifests import (
    ACCEPT,
    add_referrer,
    drop_referrer,
    fetch_manifest,
    list_referrers,
    no_image,
    put_manifest,
    restore_referrer,
)
from shipline.registry.paging import pages
from shipline.registry.quirks import PAGE
from shipline.registry.repository_api import READ, WRITE, RepositoryApi
from shipline.registry.request import Origin, Url
from shipline.registry.upload import (
    UploadState,
    cancel,
    check_stored,
    open_session,
    push_blob,
    session_of,
)
from shipline.tasks import TaskGroup

if TYPE_CHECKING:
    from shipline.registry.shared import AssumedBlob
    from shipline.registry.transport import ClientResponse


_CACHED = 16 << 20  # bytes of manifests
_TAGS_LIMIT = 64 << 20  # bytes: docker-registry 2 has all tags in one page
_ALWAYS: Mapping[str, str] = {}
_UNSUPPORTED = frozenset({400, 405})
_KNOWN = 100_000  # blobs
_EMPTY = 2  # bytes of the empty configuration, which most repositories have
_SMALL = 64 << 10  # bytes: mounted from its own repository, which opens an upload without it
_MOMENT_S = 10.0  # in which a manifest need not be looked for again
_AT_ONCE = 8  # blobs that are looked for
_ABSENT = frozenset({404, 403})  # JFrog responds 403 for absent content


class KnownBlobs(Lru[tuple[Origin, Digest], str]):
    """In which repository of a registry a blob was last seen, to mount it from there; `seen` tells
    of manifests that were looked for a moment ago whether they were there.
    """

    def __init__(self) -> None:
        super().__init__(_KNOWN, math.inf)
        self.seen: Lru[Hashable, bool] = Lru(_KNOWN, _MOMENT_S)
        self._guard = threading.Lock()
        self._turns: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()

    def turn(self, key: Hashable) -> threading.Lock:
        """Held while the content with this key is sent, so that two threads that need it send it
        once: docker-registry calls what is sent twice at a time unknown.
        """
        with self._guard:
            return self._turns.setdefault(key, threading.Lock())


class RemoteRepository:
    """A remote repository. Safe to use from any thread; construction makes no request.

    Reads try the mirrors first, then the registry; everything else goes to the registry. Methods
    raise AuthError, RegistryError, and what they name.
    """

    def __init__(
        self,
        host: str,
        repository: str,
        apis: tuple[RepositoryApi, ...],
        known: KnownBlobs | None = None,
    ) -> None:
        self.host = host
        self._known = KnownBlobs() if known is None else known
        self.repository = check_repository(repository)
        self._apis = apis
        self._registry = apis[-1]
        self._manifests: Lru[Digest, bytes] = Lru(_CACHED, math.inf, cost=len)
        self._facts = self._registry.http.facts(self._registry.endpoint, self._registry.repository)
        self._wrong: set[Digest] = set()  # what the registry itself sent wrong bytes of
        self._opened: dict[Digest, UploadState] = {}  # by mounts that were declined
        self._tags: frozenset[str] | None = None  # all, if they are known

    @property
    def name(self) -> str:
        return f"{self.host}/{self.repository}"

    @property
    def unmirrored(self) -> RemoteRepository:
        """The same repository without its mirrors, for reads that precede a write."""
        return RemoteRepository(self.host, self.repository, self._apis[-1:], self._known)

    def exists(self, target: Descriptor) -> bool:
        """Whether the registry itself, not a mirror, has the content."""
        found = self._exists(target, READ)
        if target.media_type in media.NAMED:
            self._known.seen.put(self._key(target), found)
        return found

    def among(self, tags: frozenset[str]) -> RemoteRepository:
        """The same repository, of which these are all tags: no others are asked for."""
        repository = copy(self)
        repository._tags = tags
        return repository

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        """Open the content, verified while it is read. Raises NotFound; DigestMismatch, which is
        retriable where another source, or the same one at its second reading, may have the right
        bytes.
        """
        if target.media_type in media.NAMED | media.SCHEMA1:
            content = self._document(target.digest)
            if target.media_type in media.SCHEMA1:  # verified: its digest is not that of its bytes
                target = Descriptor.of(content, target.media_type)
            yield VerifiedReader(io.BytesIO(content), target, self.host)
            return
        source = Download(self._sources(), target)
        try:
            source.open()
            where = source.api.host
            yield VerifiedReader(source, target, where)
            source.verified()
        except DigestMismatch as error:
            if error.where == where:
                source.distrust(error)
                error.retriable = error.retriable or target.digest not in self._wrong
                self._wrong.add(target.digest)
            raise
        finally:
            source.close()

    @contextmanager
    def fetch_rest(self, target: Descriptor, start: int) -> Iterator[Download]:
        """Open a blob from byte `start` on, not verified. Raises NotFound."""
        source = Download(self._sources(), target, start)
        try:
            source.open()
            yield source
        finally:
            source.close()

    @contextmanager
    def ingest(self) -> Iterator[RemoteIngest]:
        """An upload of new content, discarded unless committed before the block ends."""
        with closing(RemoteIngest(self._registry)) as ingest:
            yield ingest

    @contextmanager
    def upload(self) -> Iterator[RemoteUpload]:
        """The same for bytes that are hashed elsewhere."""
        with closing(RemoteUpload(self._registry)) as upload:
            yield upload

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        """Store the content unless it exists; an existing manifest with a subject is restored to
        the referrers tag if it was dropped there.
        """
        if self.assumes(target, source):
            return
        with self._known.turn(self._key(target)):
            self._push(target, source, advance)

    def _push(self, target: Descriptor, source: Fetcher, advance: Advance | None) -> None:
        if target.media_type not in media.NAMED:
            self._send_blob(target, source, advance)
            self._known.put((self._registry.endpoint.origin, target.digest), self.repository)
            return
        exists = self._known.seen.get(self._key(target))
        self._known.seen.drop(self._key(target))
        if exists is None:
            exists = self._exists(target, WRITE)
        content = fetch_all(source, target, MANIFEST_LIMIT)
        if exists:
            self._confirm(content)
            restore_referrer(self._registry, target, content)
            self._known.seen.put(("pushed", self._key(target)), True)
            return
        self._put(target, content, str(target.digest))
        if advance is not None:
            advance(target.size)

    def _send_blob(self, target: Descriptor, source: Fetcher, advance: Advance | None) -> None:
        """Mount or upload a blob, unless it is there: a small one is mounted from its own
        repository, which tells that in one request, and opens an upload without it. Where that
        request may have the bytes, they are sent at once.
        """
        session = self._opened.pop(target.digest, None)
        here = self._known.get((self._registry.endpoint.origin, target.digest)) == self.repository
        if session is None and not here and _EMPTY < target.size <= _SMALL:
            if self._registry.quirks.posts_blobs and not self.can_mount(unwrapped(source)):
                self._push_blob(target, source, advance, posted=True)
                return
            if self._mount_known(target, source, itself=True):
                return
            session = self._opened.pop(target.digest, None)
            if session is None and self._exists(target, WRITE):
                return
        elif self._exists(target, WRITE):
            if session is not None:
                cancel(self._registry, session)
            return
        elif session is None:
            if self._mount_known(target, source):
                return
            session = self._opened.pop(target.digest, None)
        self._push_blob(target, source, advance, session)

    def _key(self, target: Descriptor) -> Hashable:
        return self._registry.endpoint.origin, self.repository, target.digest

    def assumes(self, target: Descriptor, source: Fetcher) -> bool:
        """See `Assumer`: whether another process has seen the blob here lately."""
        if self._facts is None or target.media_type in media.NAMED:
            return False
        return self._facts.assume(target, source)

    def _push_blob(
        self,
        target: Descriptor,
        source: Fetcher,
        advance: Advance | None = None,
        session: UploadState | None = None,
        *,
        posted: bool = False,
    ) -> None:
        again_elsewhere(
            lambda: push_blob(self._registry, target, source, advance, session, posted=posted)
        )
        if self._facts is not None:
            self._facts.add_blob(target.digest)

    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        """Mount the blob from `source`, another repository of this registry; False if it is not
        one, or the registry declined. What `source` reads from a mirror cannot be mounted. A
        registry that declines opens an upload, which the next `push` of the blob goes on with.
        """
        return any(self._mount(target, name) for name in self._mountable(source))

    def can_mount(self, source: Fetcher) -> bool:
        """Whether `source` is another repository of this registry."""
        return any(self._mountable(source))

    def _mount_known(self, target: Descriptor, source: Fetcher, *, itself: bool = False) -> bool:
        """Mount the blob from the repository of this registry that is known to have it, if any:
        that of `source`, or the one that it was last pushed to, else from `itself`.
        """
        name = next(self._mountable(unwrapped(source)), None)
        name = name or self._known.get((self._registry.endpoint.origin, target.digest))
        if name in (None, self.repository) and not itself:
            return False
        return self._mount(target, name or self.repository)

    def _mountable(self, source: Fetcher) -> Iterator[str]:
        """The names of `source` in this registry, if it is another repository there."""
        for api in source._apis if isinstance(source, RemoteRepository) else ():
            same = api.endpoint.origin == self._registry.endpoint.origin
            if same and api.repository != self._registry.repository:
                yield api.repository

    def _mount(self, target: Descriptor, repository: str) -> bool:
        url = self._registry.url("blobs", "uploads", "").with_query(
            ("mount", str(target.digest)), ("from", repository)
        )
        try:
            response = self._registry.call(
                "POST",
                url,
                expect={201, 202},
                operation=f"mounting {target.digest} from {repository}",
                actions=WRITE,
                also="" if repository == self.repository else repository,
                tries=0 if repository == self.repository else 1,
            )
        except (RegistryError, AuthError) as error:
            if repository == self.repository and error.retriable:
                raise
            return False
        try:
            if response.status == 202:  # the registry opened an upload instead
                self._opened[target.digest] = session_of(self._registry, response)
            elif self._facts is not None:
                self._facts.add_blob(target.digest)
            return response.status == 201
        finally:
            response.close()

    def resolve(self, reference: str) -> Descriptor:
        """The descriptor of a tag or a digest. Raises NotFound."""
        name = str(Digest.parse(reference)) if ":" in reference else check_tag(reference)
        target, content = self._read_document(name)
        self._manifests.put(target.digest, content)
        return target

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        """Tag a manifest, moving the tag if it exists. The tag of one that was there when it was
        pushed is read first, as by BuildKit: it often is that already, and a write takes longer.
        """
        name = check_tag(tag)
        if self._known.seen.get(("pushed", self._key(target))) and self._has_tag(target, name):
            return
        self._put(target, fetch_all(source, target, MANIFEST_LIMIT), name)

    def _has_tag(self, target: Descriptor, tag: str) -> bool:
        try:
            return self.digest_of(tag) == target.digest
        except ShiplineError:  # the write tells what is wrong
            return False

    def swap(self, target: Descriptor, source: Fetcher, tag: str, before: Digest | None) -> bool:
        """See `Swapper`: a conditional request (RFC 9110), which a registry may ignore."""
        content = fetch_all(source, target, MANIFEST_LIMIT)
        if self._tagged(tag) != before:
            return False
        wanted = {"If-None-Match": "*"} if before is None else {"If-Match": f'"{before}"'}
        if self._put(target, content, check_tag(tag), wanted):
            return True
        if self._tagged(tag) != before:
            return False
        return self._put(target, content, tag)  # the registry means something else

    def _tagged(self, tag: str) -> Digest | None:
        try:
            return fetch_manifest(self._registry, check_tag(tag))[0].digest
        except NotFound:
            return None

    def check_push(self) -> None:
        """Check that content may be pushed: an upload is begun and cancelled, nothing is stored."""
        cancel(self._registry, open_session(self._registry))

    def tags(self) -> Iterator[str]:
        """All tags, in the registry's order, without what is not a tag."""
        first = self._registry.url("tags", "list").with_query(("n", str(PAGE)))
        for page in pages(first, self._tags_page, limit=_TAGS_LIMIT):
            try:
                names = json.loads(page).get("tags") or ()
            except (ValueError, AttributeError):
                raise ContentError(
                    f"{self.name}: the list of tags is not JSON", code="registry-answer"
                ) from None
            yield from (tag for tag in names if isinstance(tag, str) and is_tag(tag))

    def _tags_page(self, url: Url) -> ClientResponse:
        response = self._registry.call("GET", url, expect={200, 404}, operation="listing tags")
        if response.status != 404:
            return response
        response.close()
        raise NotFound(f"{self.name} does not exist", code="repository-not-found")

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Manifests whose subject is `target`, of one artifact type if it is given."""
        return list_referrers(self._registry, target.digest, artifact_type, self._tags)

    def delete(self, reference: str) -> None:
        """Remove a tag, or a manifest with all its tags and its entry in the referrers tag of its
        subject. Raises NotFound.
        """
        name = str(Digest.parse(reference)) if ":" in reference else check_tag(reference)
        content = self._if_readable(name) if ":" in name else b""
        try:
            response = self._registry.call(
                "DELETE",
                self._registry.manifest(name),
                expect={202, 200, 204, 404},
                operation=f"deleting {name}",
                actions=self._registry.quirks.delete_actions,
            )
        except RegistryError as error:
            if error.status in _UNSUPPORTED:
                error.hint = self._registry.quirks.delete_hint or error.hint
            raise
        response.close()
        self._known.seen.clear()  # a digest takes its tags along, and some registries its index
        if ":" in name and self._facts is not None:
            self._facts.drop_manifest(Digest.parse(name))
        if response.status == 404:
            raise no_image(self.name, name)
        if content:
            drop_referrer(self._registry, Digest.parse(name), content)

    def _if_readable(self, name: str) -> bytes:
        """The manifest to be deleted, whose subject may list it; what is damaged lists nothing."""
        with suppress(ContentError, DigestMismatch):
            return fetch_manifest(self._registry, name)[1]
        return b""

    def digest_of(self, tag: str) -> Digest | None:
        """The digest of a tag by HEAD, None if the registry does not tell it. Raises NotFound."""
        headers = self._head(self._registry.manifest(check_tag(tag)), tag, {"Accept": ACCEPT})
        text = headers("Docker-Content-Digest")
        return Digest.parse(text) if text else None

    def blob_size(self, digest: Digest) -> int:
        """The size of a blob in bytes by HEAD. Raises NotFound, ContentError without a size."""
        url = self._registry.blob(digest)
        size = self._head(url, str(digest), {})("Content-Length")
        if not re.fullmatch("[0-9]{1,18}", size):
            size = self._size_in_range(url, digest)
        if not re.fullmatch("[0-9]{1,18}", size):
            raise ContentError(
                f"{self.name}: the size of {digest} is unknown", code="registry-answer"
            )
        return int(size)

    def _size_in_range(self, url: Url, digest: Digest) -> str:
        """Of a registry whose HEAD tells none (Harbor)."""
        response = self._registry.call(
            "GET",
            url,
            expect={200, 206},
            operation=f"looking for {digest}",
            headers={"Range": "bytes=0-0"},
            limit="read",
        )
        response.close()
        if response.status == 200:
            return response.header("Content-Length")
        return response.header("Content-Range").rpartition("/")[2]

    def _head(self, url: Url, name: str, headers: Mapping[str, str]) -> Callable[[str], str]:
        response = self._registry.call(
            "HEAD", url, expect={200, 404}, operation=f"looking for {name}", headers=headers
        )
        response.close()
        if response.status == 404:
            raise no_image(self.name, name)
        return response.header

    def _exists(self, target: Descriptor, actions: frozenset[str]) -> bool:
        is_manifest = target.media_type in media.NAMED
        registry = self._registry
        response = registry.call(
            "HEAD",
            registry.manifest(str(target.digest)) if is_manifest else registry.blob(target.digest),
            expect={200, *_ABSENT},
            operation=f"looking for {target.digest}",
            actions=actions,
            headers={"Accept": ACCEPT} if is_manifest else None,
        )
        response.close()
        exists: bool = response.status == 200
        if exists and not is_manifest and self._facts is not None:
            self._facts.add_blob(target.digest)
        return exists

    def _sources(self, *, tag: bool = False) -> tuple[RepositoryApi, ...]:
        """Where to read from, the nearest mirror first; a `tag` only from those that tell tags."""
        mirrors = {
            api.endpoint: api
            for api in self._apis[:-1]
            if not (api.refused or (tag and api.endpoint.digest_only))
        }
        if not mirrors:
            return (self._registry,)
        order = self._registry.http.mirrors.nearest_first(tuple(mirrors), self._registry.http.probe)
        return (*(mirrors[endpoint] for endpoint in order), self._registry)

    def _document(self, digest: Digest) -> bytes:
        content = self._manifests.get(digest)
        if content is None and self._facts is not None:
            content = self._facts.manifest(digest)
        if content is None:
            _, content = self._read_document(str(digest))
            if self._facts is not None:
                self._facts.add_manifest(digest, content)
        self._manifests.put(digest, content)
        return content

    def _read_document(self, name: str) -> tuple[Descriptor, bytes]:
        *mirrors, registry = self._sources(tag=":" not in name)
        failures: list[ShiplineError] = []
        for api in mirrors:
            try:
                found = fetch_manifest(api, name)
            except (RegistryError, AuthError, NotFound, DigestMismatch) as error:
                api.failed(error)
                failures.append(error)
            else:
                api.delivered()
                return found
        with noting_mirrors(failures):
            return fetch_manifest(registry, name)

    def _put(
        self, target: Descriptor, content: bytes, name: str, condition: Mapping[str, str] = _ALWAYS
    ) -> bool:
        """PUT exactly these bytes; False where the registry says that `condition` does not hold."""
        assumed = self._facts.assumed(content) if self._facts is not None else []
        try:
            response = self._put_manifest(target, content, name, condition)
        except RegistryError as error:
            if error.retriable or not self._restore(assumed):
                raise
            response = self._put_manifest(target, content, name, condition)
        if response.status == 412:
            return False
        check_stored(self._registry, response, target)
        if self._facts is not None:
            self._facts.confirm(assumed)
        self._manifests.put(target.digest, content)
        if b'"subject"' in content and not response.header("OCI-Subject"):
            add_referrer(self._registry, target, content)
        return True

    def _put_manifest(
        self, target: Descriptor, content: bytes, name: str, condition: Mapping[str, str]
    ) -> ClientResponse:
        headers = {"Content-Type": target.media_type, **condition}
        return put_manifest(self._registry, name, content, headers, f"putting the manifest {name}")

    def _confirm(self, manifest: bytes) -> None:
        """Look for the assumed blobs of a manifest that exists: the registry checked them when it
        was put, and may have lost them since.
        """
        if self._facts is not None and (assumed := self._facts.assumed(manifest)):
            self._restore(assumed)
            self._facts.confirm(assumed)

    def _restore(self, assumed: Sequence[AssumedBlob]) -> bool:
        """Push those that are missing; whether any were."""
        with TaskGroup(_AT_ONCE) as group:
            missing = [group.start(self._push_if_missing, one) for one in assumed]
        return any(task.result() for task in missing)

    def _push_if_missing(self, blob: AssumedBlob) -> bool:
        if self._exists(blob.target, WRITE):
            return False
        assert self._facts is not None
        self._facts.drop_blob(blob.target.digest)
        self._push_blob(blob.target, blob.source)
        return True
