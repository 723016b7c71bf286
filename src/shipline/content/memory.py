"""Content in memory: a source of new documents, and a store for tests."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shipline.content.protocols import Advance, Fetcher
from shipline.content.readers import VerifiedReader, fetch_all
from shipline.errors import DigestMismatch, NotFound
from shipline.oci import Descriptor, Digest, Hasher, check_tag


class MemoryIngest:
    """Bytes collected in memory until they are committed."""

    def __init__(self, blobs: dict[Digest, bytes]) -> None:
        self._blobs = blobs
        self._parts: list[bytes] = []
        self._hasher = Hasher()

    @property
    def digest(self) -> Digest:
        return self._hasher.digest

    @property
    def size(self) -> int:
        return self._hasher.size

    def write(self, data: bytes) -> None:
        self._parts.append(bytes(data))
        self._hasher.update(data)

    def commit(self, target: Descriptor) -> None:
        content = b"".join(self._parts)
        got = Digest.of(content, target.digest.algorithm)
        if got != target.digest or len(content) != target.size:
            raise DigestMismatch(
                expected=f"{target.digest} ({target.size} bytes)",
                got=f"{got} ({len(content)} bytes)",
                where="memory",
            )
        self._blobs[target.digest] = content


class MemoryStore:
    """A Repository in memory; `tags` maps tags to descriptors."""

    def __init__(self, *contents: bytes) -> None:
        self.blobs = {Digest.of(content): content for content in contents}
        self.tags: dict[str, Descriptor] = {}
        self._lock = threading.Lock()

    def add(self, content: bytes, media_type: str) -> Descriptor:
        """Store `content`; returns its descriptor."""
        target = Descriptor.of(content, media_type)
        self.blobs[target.digest] = content
        return target

    def exists(self, target: Descriptor) -> bool:
        return target.digest in self.blobs

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        content = self.blobs.get(target.digest)
        if content is None:
            raise NotFound(f"{target.digest} is not in memory", code="content-gone")
        yield VerifiedReader(io.BytesIO(content), target, "memory")

    @contextmanager
    def ingest(self) -> Iterator[MemoryIngest]:
        yield MemoryIngest(self.blobs)

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        if not self.exists(target):
            ingest = MemoryIngest(self.blobs)
            ingest.write(fetch_all(source, target, target.size))
            ingest.commit(target)
            if advance is not None:
                advance(target.size)

    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        return False

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        check_tag(tag)
        self.push(target, source)
        self.tags[tag] = target

    def swap(self, target: Descriptor, source: Fetcher, tag: str, before: Digest | None) -> bool:
        with self._lock:
            now = self.tags.get(tag)
            if (None if now is None else now.digest) != before:
                return False
            self.tag(target, source, tag)
        return True

    def resolve(self, reference: str) -> Descriptor:
        """By tag, or by the digest of tagged content. Raises NotFound."""
        for tag, target in self.tags.items():
            if reference in (tag, str(target.digest)):
                return target
        raise NotFound(f"{reference} is not in memory", code="image-not-found")
