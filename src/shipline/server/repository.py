"""Repositories of this node as `content.Repository`s, for what copies into them or out of them in
this process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from shipline.content import CHUNK, Advance, Fetcher, Ingest, Reader, fetch_document, fetch_rest
from shipline.errors import DigestMismatch, NotFound
from shipline.oci import Descriptor, Digest, media
from shipline.server.admission.evidence import StoredEvidence
from shipline.server.events import NodeEvent, Publish
from shipline.server.http import READ, ClientGone, Coro
from shipline.server.locks import StripedLocks
from shipline.server.manifests import Manifests
from shipline.server.problems import Problem
from shipline.server.routes.blobs import check_unneeded
from shipline.server.storage import Storage
from shipline.server.uploads import UploadStore
from shipline.tasks import sleep

_PAUSE_S = 0.05
_DOWNLOADS = 1024  # locks, of which each download holds one


@dataclass(frozen=True, slots=True)
class StoredRepositories:
    """The repositories of a node. What is written belongs to `actor`, and is published like a push;
    the rules for pushes do not apply.
    """

    storage: Storage
    manifests: Manifests
    uploads: UploadStore
    publish: Publish
    actor: str
    downloads: StripedLocks = field(default_factory=lambda: StripedLocks(_DOWNLOADS))

    def open(self, name: str) -> StoredRepository:
        """The repository `name`, which need not exist."""
        return StoredRepository(self, name)


class _TagMoved(Exception):
    """Another writer has moved the tag."""


class StoredRepository(StoredEvidence):
    """A repository of the node. Safe to use from any thread.

    Blobs that another repository has are mounted; a download that broke off goes on where it ended,
    also in another process.
    """

    def __init__(self, node: StoredRepositories, name: str) -> None:
        super().__init__(node.storage, node.manifests, name)
        self.name = name
        self._node = node

    def exists(self, target: Descriptor) -> bool:
        if target.media_type in media.NAMED:
            return self.find(target.digest) is not None
        return self._storage.find_blob(self.name, target.digest) is not None

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        if target.media_type in media.NAMED:
            if not self.exists(target):
                self._put(target, source)
            return
        with self._node.downloads.hold([target.digest]):
            if not self.exists(target) and not self.mount(target, source):
                self._receive(target, source, advance)

    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        """Mount the blob from any repository of this node; False if none has it."""
        return self._node.storage.mount(target.digest, self.name, None, actor=self._node.actor)

    @contextmanager
    def ingest(self) -> Iterator[Ingest]:
        raise NotImplementedError("content arrives by digest")

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        self._put(target, source, tag)

    def swap(self, target: Descriptor, source: Fetcher, tag: str, before: Digest | None) -> bool:
        def check() -> None:
            if self._manifests.target(self.name, tag) != before:
                raise _TagMoved

        try:
            self._put(target, source, tag, check=check)
        except _TagMoved:
            return False
        return True

    def tags(self) -> Iterator[str]:
        """All tags in byte order."""
        return (tagged.tag for tagged in self._manifests.every_tag(self.name))

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """All referrers, of one artifact type if it is given."""
        entries = self._manifests.referrers(self.name, target.digest, "")
        return tuple(
            referrer
            for referrer in map(Descriptor.from_json, entries)
            if artifact_type in ("", referrer.artifact_type)
        )

    def delete(self, reference: str) -> None:
        """Remove a tag, or a manifest with its tags; a manifest that another lists stays. Raises
        NotFound.
        """
        if ":" in reference:
            digest = Digest.parse(reference)
            gone = self._manifests.delete(
                self.name, digest, check=lambda: check_unneeded(self._storage, self.name, digest)
            )
            event = NodeEvent("delete", self.name, reference, actor=self._node.actor)
        else:
            gone = self._manifests.untag(self.name, reference)
            event = NodeEvent("untag", self.name, tags=(reference,), actor=self._node.actor)
        if not gone:
            raise NotFound(f"{reference} is not in {self.name}", code="image-not-found")
        self._node.publish(event)

    def _put(
        self,
        target: Descriptor,
        source: Fetcher,
        *tags: str,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        content = fetch_document(source, target)
        actor, digest = self._node.actor, target.digest
        self._manifests.put(self.name, digest, content, tags, actor=actor, check=check)
        kind = target.media_type
        self._node.publish(
            NodeEvent("push", self.name, str(digest), tags, kind, target.size, actor)
        )

    def _receive(self, target: Descriptor, source: Fetcher, advance: Advance | None) -> None:
        uploads, actor = self._node.uploads, self._node.actor
        place = hashlib.sha256(self.name.encode()).hexdigest()[:16]
        upload_id = f"replica-{place}-{target.digest.hex}"
        try:
            start = uploads.size(self.name, upload_id, actor=actor)
        except Problem:
            uploads.start(self.name, target.digest.algorithm, actor=actor, upload_id=upload_id)
            start = 0
        left = max(target.size - start, 0)
        try:
            with fetch_rest(source, target, start) as reader:
                _feed(
                    uploads.finish(self.name, upload_id, target.digest, None, left, actor=actor),
                    reader,
                    advance,
                )
        except (DigestMismatch, Problem) as error:
            uploads.cancel(self.name, upload_id, actor=actor)
            if isinstance(error, Problem) and error.reason == "DIGEST_INVALID":
                raise DigestMismatch(
                    expected=str(target.digest),
                    got="other bytes",
                    where=self.name,
                    hint="the download is started again",
                ) from error
            raise


def _feed(steps: Coro[None], reader: Reader, advance: Advance | None) -> None:
    """Run an upload with the bytes of `reader`. If they break off, what arrived is kept."""
    try:
        step = next(steps)
        while True:
            if step is READ:
                data = _read(steps, reader)
                if advance is not None and data:
                    advance(len(data))
                step = steps.send(data)
            else:
                sleep(_PAUSE_S)
                step = steps.send(b"")
    except StopIteration:
        return


def _read(steps: Coro[None], reader: Reader) -> bytes:
    try:
        return reader.read(CHUNK)
    except BaseException:
        with suppress(ClientGone):
            steps.throw(ClientGone())
        raise
