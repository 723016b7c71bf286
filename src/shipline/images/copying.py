"""One tag copied to another registry: content, statements about it, then the tag, if it is still
what it was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from shipline.content import (
    CHUNK,
    Advance,
    Exister,
    Fetcher,
    MemoryStore,
    Reader,
    Swapper,
    copy_graph,
    fetch_document,
    fetch_rest,
    successors,
)
from shipline.errors import ContentError, NotFound, UsageError
from shipline.images.formats import ImageFormat
from shipline.oci import MAX_DEPTH, Descriptor, Digest, Index, Platform, media
from shipline.supply import Attachable, StatementSource, copy_evidence
from shipline.tasks import sleep, visit_graph
from shipline.values import replace

_LEAST_READ = 16 << 10  # bytes
_AT_ONCE = 8  # requests


class Remote(Attachable, Swapper, Protocol):
    """A repository to copy from or into."""

    def tags(self) -> Iterator[str]:
        """All tags."""

    def delete(self, reference: str) -> None:
        """Remove a tag or a manifest. Raises NotFound."""


class InvalidPlace(UsageError):
    """No image can be read or written at a place."""

    code = "copy-place"


class TagMoved(ContentError):
    """Another writer has moved the tag meanwhile."""

    code = "tag-moved"

    def __init__(self, tag: str) -> None:
        super().__init__(
            f"{tag} was moved by another writer while it was copied", hint="run it again"
        )
        self.retriable = True


class Meter:
    """Counts the bytes in flight, and delays transfers so that all together stay within
    `bytes_per_s`. Safe to use from any thread.
    """

    def __init__(
        self,
        bytes_per_s: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = sleep,
    ) -> None:
        self._rate = bytes_per_s
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()
        self._free_at = 0.0
        self.in_flight = 0  # bytes of the blobs being transferred
        self.total = 0  # bytes transferred

    @property
    def longest_read(self) -> int:
        """Bytes to transfer at a time, so that a low rate is even."""
        return CHUNK if self._rate is None else max(_LEAST_READ, min(CHUNK, self._rate // 4))

    @contextmanager
    def transfer(self, size: int) -> Iterator[None]:
        """Count a blob as in flight inside the block."""
        with self._lock:
            self.in_flight += size
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= size

    def take(self, size: int) -> None:
        """`size` bytes were read: wait until more may be."""
        now = self._clock()
        with self._lock:
            self.total += size
            if self._rate is None:
                return
            self._free_at = max(self._free_at, now) + size / self._rate
            wait_s = self._free_at - now
        self._pause(wait_s)


class MeteredSource:
    """A repository whose blobs are read through a meter."""

    def __init__(self, source: StatementSource, meter: Meter) -> None:
        self.wrapped = source
        self._meter = meter

    def resolve(self, reference: str) -> Descriptor:
        return self.wrapped.resolve(reference)

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        return self.wrapped.referrers(target, artifact_type)

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        with self._meter.transfer(target.size), self.wrapped.fetch(target) as reader:
            yield _MeteredReader(reader, self._meter)

    @contextmanager
    def fetch_rest(self, target: Descriptor, start: int) -> Iterator[Reader]:
        size = max(target.size - start, 0)
        with self._meter.transfer(size), fetch_rest(self.wrapped, target, start) as reader:
            yield _MeteredReader(reader, self._meter)


class _MeteredReader:
    def __init__(self, reader: Reader, meter: Meter) -> None:
        self._reader = reader
        self._meter = meter

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        data = self._reader.read(min(size, self._meter.longest_read))
        self._meter.take(len(data))
        return data


class NarrowedSource(MeteredSource):
    """A repository whose indexes list `platforms` alone, where they list any of them."""

    def __init__(
        self, source: StatementSource, meter: Meter, platforms: Sequence[Platform]
    ) -> None:
        super().__init__(source, meter)
        self._platforms = platforms
        self._indexes = MemoryStore()

    def narrowed(self, target: Descriptor) -> Descriptor:
        """What stands for `target`: itself, or the index made of it. Raises ContentError for an
        index without these platforms.
        """
        if target.media_type not in media.INDEXES or not self._platforms:
            return target
        found = self._only(target, MAX_DEPTH)
        if found is None:
            wanted = ", ".join(map(str, self._platforms))
            raise ContentError(
                f"{target.digest} has no image for {wanted}", code="platform-missing"
            )
        return found

    def _only(self, target: Descriptor, depth: int) -> Descriptor | None:
        """What stands for an index, None for one with other platforms alone."""
        index = fetch_document(self, target)
        assert isinstance(index, Index)
        inner = [one for one in index.manifests if one.media_type in media.INDEXES and depth]
        if not index.images and not inner:
            return target
        kept = list(index.only(self._platforms).manifests)
        for one in inner:
            if one not in kept and (found := self._only(one, depth - 1)) is not None:
                kept.append(replace(one, digest=found.digest, size=found.size))
        if not kept:
            return None
        if len(kept) == len(index.manifests) and set(kept) == set(index.manifests):
            return target
        made = Index.make(kept, media_type=index.media_type, annotations=index.annotations)
        return self._indexes.add(made.raw, made.media_type)

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        if self._indexes.exists(target):
            with self._indexes.fetch(target) as reader:
                yield reader
            return
        with super().fetch(target) as reader:
            yield reader

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        return () if self._indexes.exists(target) else super().referrers(target, artifact_type)


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """`platforms` of an image, all if empty, with `single` the image of the first of them that it
    has, by default that of this machine; with `referrers`, statements about it, too. With `force`,
    each blob is looked for, where else a manifest says that all it names is there. `format` is that
    of the manifests. `exact` replaces signatures at the destination by those of the source.
    """

    platforms: tuple[Platform, ...] = ()
    referrers: bool = True
    force: bool = False
    single: bool = False
    format: ImageFormat | None = None
    exact: bool = False


def copy_tag(
    source: StatementSource,
    target: Remote,
    root: Descriptor,
    tag: str,
    *,
    options: CopyOptions,
    meter: Meter | None = None,
    advance: Advance | None = None,
    expect: Advance | None = None,
) -> Descriptor | None:
    """Point `tag` at `target` to `root` once it has everything that belongs to it; returns the
    descriptor that it points to, None if it did before. `advance` and `expect` are those of
    `copy_graph`. Raises TagMoved.
    """
    new = root
    if meter is not None or options.platforms:
        source = narrowed = NarrowedSource(source, meter or Meter(), options.platforms)
        new = narrowed.narrowed(root)
    before = digest_of(target, tag)
    if before == new.digest and not options.force:
        return None
    is_complete = None if options.force else target.exists
    alone = new.digest.algorithm == "sha256"  # the tag stores it under no other digest
    copy_graph(
        source, target, new, advance, is_complete=is_complete, expect=expect, with_root=not alone
    )
    if options.referrers:
        there, exact = not alone, options.exact
        copy_evidence(source, target, new, advance, subject_is_there=there, exact=exact)
    if not target.swap(new, source, tag, before) and digest_of(target, tag) != new.digest:
        raise TagMoved(tag)
    return new


def missing(source: Fetcher, target: Exister, *roots: Descriptor) -> tuple[Descriptor, ...]:
    """What the target lacks of what the source has; what is complete there is not looked into."""
    found: dict[Digest, Descriptor] = {}

    def look(node: Descriptor) -> Iterable[Descriptor]:
        if target.exists(node) or (node.urls and not _can_fetch(source, node)):
            return ()
        found[node.digest] = node
        children = successors(source, node)
        return (replace(child.plain, urls=child.urls) for child in children)

    visit_graph([root.plain for root in roots], look, lambda node: None, at_once=_AT_ONCE)
    return tuple(found.values())


def _can_fetch(source: Fetcher, node: Descriptor) -> bool:
    try:
        with source.fetch(node):
            return True
    except NotFound:
        return False


def is_damaged(source: Fetcher, target: Exister, root: Descriptor, *, blobs: bool) -> bool:
    """Whether the target lacks the manifest of an image in `root`, or, with `blobs`, anything."""
    lost: list[Descriptor] = []

    def look(node: Descriptor) -> Iterable[Descriptor]:
        if not target.exists(node):
            lost.append(node)
        if lost or not (blobs or node.media_type in media.INDEXES):
            return ()
        children = successors(source, node)
        return (one.plain for one in children if one.media_type in media.NAMED or not one.urls)

    visit_graph([root.plain], look, lambda node: None, at_once=_AT_ONCE)
    return bool(lost)


def digest_of(repository: Attachable, tag: str) -> Digest | None:
    """The digest of a tag, None without one."""
    try:
        return repository.resolve(tag).digest
    except NotFound:
        return None
