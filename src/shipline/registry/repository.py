"""A repository in a registry: `content.Repository` over HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager

from shipline.content import Advance, Fetcher, VerifiedReader, fetch_all
from shipline.errors import (
    AuthError,
    ContentError,
    DigestMismatch,
    NotFound,
    RegistryError,
    ShiplineError,
)
from shipline.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    Digest,
    check_repository,
    check_tag,
    media,
)
from shipline.registry.channel import READ, WRITE, Channel
from shipline.registry.documents import ACCEPT, Documents, fetch_document, pages
from shipline.registry.download import Download, blaming_mirrors
from shipline.registry.ingest import RemoteIngest
from shipline.registry.referrers import note_referrer, referrers, repair_referrer
from shipline.registry.upload import UploadState, cancel, push_blob

_ABSENT = frozenset({404, 403})  # JFrog says 403 for what is not there


class RemoteRepository:
    """Content with names, elsewhere. Safe to use from any thread; makes no request when made.

    Reading asks the mirrors first, then the registry; everything else is between us and the
    registry. Methods raise AuthError, RegistryError, and what they name.
    """

    def __init__(self, host: str, repository: str, channels: tuple[Channel, ...]) -> None:
        self.host = host
        self.repository = check_repository(repository)
        self._channels = channels
        self._home = channels[-1]
        self._documents = Documents()
        self._distrusted: set[Channel] = set()

    @property
    def name(self) -> str:
        return f"{self.host}/{self.repository}"

    @property
    def unmirrored(self) -> RemoteRepository:
        """The same, but read from the registry alone: for whoever reads in order to write."""
        return RemoteRepository(self.host, self.repository, self._channels[-1:])

    def exists(self, target: Descriptor) -> bool:
        return self._exists(target, READ)

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        """Open the content, verified while it is read. Raises NotFound."""
        if target.media_type in media.NAMED:
            content = self._document(target.digest)
            yield VerifiedReader(io.BytesIO(content), target, self.host)
            return
        source = Download(self._readable(), target)
        try:
            source.open()
            yield VerifiedReader(source, target, source.channel.host)
        except DigestMismatch:
            self._distrusted.add(source.channel)
            raise
        finally:
            source.close()

    @contextmanager
    def ingest(self) -> Iterator[RemoteIngest]:
        """A place for new content; what was not committed when the block ends never existed."""
        ingest = RemoteIngest(self._home)
        try:
            yield ingest
        finally:
            ingest.close()

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        """Store the content; does nothing where it exists already, except that a manifest which
        refers to another is entered again in a list of referrers that lost it.
        """
        there, named = self._exists(target, WRITE), target.media_type in media.NAMED
        if not named:
            if not there:
                push_blob(self._home, target, source, advance)
            return
        content = fetch_all(source, target, MANIFEST_LIMIT)
        if there:
            repair_referrer(self._home, target, content)
            return
        self._put(target, content, str(target.digest))
        if advance is not None:
            advance(target.size)

    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        """Take the blob over from `source` without moving bytes; False where it is no other
        repository of the same registry, or that refused. What `source` reads from a mirror is
        at the mirror.
        """
        if not self._home.quirks.mounts or not isinstance(source, RemoteRepository):
            return False
        origin = self._home.endpoint.origin
        found = [one.repository for one in source._channels if one.endpoint.origin == origin]
        return any(self._mount(target, one) for one in found if one != self._home.repository)

    def _mount(self, target: Descriptor, repository: str) -> bool:
        url = self._home.url("blobs", "uploads", "").adding(
            ("mount", str(target.digest)), ("from", repository)
        )
        try:
            answer = self._home.call(
                "POST",
                url,
                expect={201, 202},
                doing=f"mounting {target.digest} from {repository}",
                actions=WRITE,
                also=repository,
                tries=1,
            )
        except (RegistryError, AuthError):
            return False
        try:
            if answer.status == 202:  # an upload was opened instead
                cancel(self._home, UploadState(self._home.location(answer)))
            return answer.status == 201
        finally:
            answer.close()

    def resolve(self, reference: str) -> Descriptor:
        """The descriptor behind a tag or a digest. Raises NotFound."""
        name = str(Digest.parse(reference)) if ":" in reference else check_tag(reference)
        target, content = self._read_document(name)
        self._documents.keep(target.digest, content)
        return target

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        """Give a manifest a name, moving the name if it exists."""
        self._put(target, fetch_all(source, target, MANIFEST_LIMIT), check_tag(tag))

    def tags(self) -> Iterator[str]:
        """All tags, in the registry's order."""
        first = self._home.url("tags", "list").adding(("n", str(self._home.quirks.page)))
        for answer in pages(self._home, first, "listing tags"):
            try:
                found = json.loads(answer).get("tags") or ()
            except (ValueError, AttributeError):
                raise ContentError(f"{self.name}: the list of tags is not JSON") from None
            yield from (tag for tag in found if isinstance(tag, str))

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Manifests whose subject is `target`, of one artifact type if it is given."""
        return referrers(self._home, target.digest, artifact_type)

    def delete(self, reference: str) -> None:
        """Remove a tag, or a manifest with all its tags. Raises NotFound."""
        name = str(Digest.parse(reference)) if ":" in reference else check_tag(reference)
        answer = self._home.call(
            "DELETE",
            self._home.manifest(name),
            expect={202, 200, 204, 404},
            doing=f"deleting {name}",
            actions=WRITE,
        )
        answer.close()
        if answer.status == 404:
            raise NotFound(f"{name} is not in {self.name}")

    def _exists(self, target: Descriptor, actions: frozenset[str]) -> bool:
        named = target.media_type in media.NAMED
        home = self._home
        answer = home.call(
            "HEAD",
            home.manifest(str(target.digest)) if named else home.blob(target.digest),
            expect={200, *_ABSENT},
            doing=f"looking for {target.digest}",
            actions=actions,
            headers={"Accept": ACCEPT} if named else None,
        )
        answer.close()
        return answer.status == 200

    def _readable(self) -> tuple[Channel, ...]:
        trusted = tuple(one for one in self._channels if one not in self._distrusted)
        return trusted or (self._home,)

    def _document(self, digest: Digest) -> bytes:
        content = self._documents.get(digest)
        if content is None:
            _, content = self._read_document(str(digest))
            self._documents.keep(digest, content)
        return content

    def _read_document(self, name: str) -> tuple[Descriptor, bytes]:
        *mirrors, home = self._readable()
        failures: list[ShiplineError] = []
        for channel in mirrors:
            try:
                return fetch_document(channel, name)
            except DigestMismatch as error:
                self._distrusted.add(channel)
                failures.append(error)
            except (RegistryError, AuthError, NotFound) as error:
                failures.append(error)
        with blaming_mirrors(failures):
            return fetch_document(home, name)

    def _put(self, target: Descriptor, content: bytes, name: str) -> None:
        """PUT exactly these bytes."""
        answer = self._home.call(
            "PUT",
            self._home.manifest(name),
            expect={200, 201, 202},
            doing=f"putting the manifest {name}",
            actions=WRITE,
            headers={"Content-Type": target.media_type},
            body=content,
        )
        answer.close()
        self._documents.keep(target.digest, content)
        if b'"subject"' in content and not answer.header("OCI-Subject"):
            note_referrer(self._home, target, content)
