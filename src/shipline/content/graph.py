"""The content graph: `successors` defines it, `copy_graph` copies it.

Copying, garbage collection, replication and measuring are walks over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from shipline.content.protocols import Advance, Fetcher, Reader, Store
from shipline.content.readers import fetch_all, fetch_rest
from shipline.content.store import LocalStore
from shipline.errors import ContentError, NotFound, ShiplineError
from shipline.oci import MANIFEST_LIMIT, Descriptor, Digest, Index, Manifest, media, parse_manifest
from shipline.tasks import visit_graph


def fetch_document(source: Fetcher, target: Descriptor) -> Manifest | Index:
    """The manifest or index, verified. Raises ContentError, also for one of more than
    `MANIFEST_LIMIT`, and what `source` raises.
    """
    return parse_manifest(fetch_all(source, target, MANIFEST_LIMIT), target.media_type)


def fetch_image(source: Fetcher, entry: Descriptor) -> Manifest:
    """The manifest of an entry of an index. Raises ContentError for an index inside an index."""
    manifest = fetch_document(source, entry)
    if isinstance(manifest, Index):
        raise ContentError(f"{entry.digest} is an index inside an index", code="index-nested")
    return manifest


def successors(source: Fetcher, node: Descriptor) -> tuple[Descriptor, ...]:
    """The children of `node`: manifests of an index, config and layers of a manifest, else none."""
    if node.media_type not in media.NAMED:
        return ()
    parsed = fetch_document(source, node)
    if isinstance(parsed, Index):
        return parsed.manifests
    return (parsed.config, *parsed.layers)


_CONCURRENCY = 8  # descriptors in flight, and threads


def copy_graph(
    source: Fetcher,
    destination: Store,
    root: Descriptor,
    advance: Advance | None = None,
    *,
    is_complete: Callable[[Descriptor], bool] | None = None,
    expect: Advance | None = None,
    with_root: bool = True,
) -> None:
    """Copy the graph of `root`. When this returns, `destination` has all of it.

    A parent is written after its children, so whatever exists at the destination is complete, and
    repeating the call resumes a failed copy; what is below a manifest that `is_complete` is not
    looked at. `expect` gets the bytes of what is found, and, as negative numbers, those that need
    not be moved. Without `with_root`, the root is counted, and left to the caller, who tags it. A
    layer that the source lacks is left out if it has `urls` (descriptor.md). A note on the error
    names the content and the end that failed.
    """
    nodes = {root.digest: root}
    tracked = _TrackedSource(source)
    root_is_complete = False

    @contextmanager
    def blaming(digest: Digest, *, reading: bool = False) -> Iterator[Descriptor]:
        try:
            yield nodes[digest]
        except ShiplineError as error:
            content = f"{digest} ({nodes[digest].media_type})"
            if reading or error in tracked.failures or isinstance(error, NotFound):
                error.add_note(f"while reading {content} from the source")
            else:
                error.add_note(f"while writing {content} to the destination")
            raise

    def children_of(digest: Digest) -> tuple[Digest, ...]:
        with blaming(digest) as node:
            if is_complete is not None and node.media_type in media.NAMED and is_complete(node):
                nonlocal root_is_complete
                root_is_complete = root_is_complete or digest == root.digest
                return ()
        with blaming(digest, reading=True):
            children = successors(tracked, node)
        for child in children:
            if nodes.setdefault(child.digest, child) is child and expect is not None:
                expect(child.size)
        return tuple(child.digest for child in children)

    def push(digest: Digest) -> None:
        moved = 0

        def count(size: int) -> None:
            nonlocal moved
            moved += size
            if advance is not None:
                advance(size)

        if digest == root.digest and not with_root:
            count(0 if root_is_complete else root.size)
            return
        with blaming(digest) as node:
            # passed as it is: registries send the files of a local store with sendfile
            as_is = isinstance(source, LocalStore) and not node.urls
            try:
                destination.push(node, source if as_is else tracked, count)
            except NotFound as error:
                if not node.urls or error not in tracked.failures:
                    raise
        if expect is not None and moved < node.size and digest != root.digest:
            expect(moved - node.size)

    visit_graph([root.digest], children_of, push, at_once=_CONCURRENCY)


class _TrackedSource:
    """A Fetcher that records its failures, to tell them from those of the destination."""

    def __init__(self, source: Fetcher) -> None:
        self.wrapped = source
        self.failures: list[ShiplineError] = []

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        with ExitStack() as stack:
            with self._tracking():
                reader = stack.enter_context(self.wrapped.fetch(target))
            yield _TrackedReader(reader, self)

    @contextmanager
    def fetch_rest(self, target: Descriptor, start: int) -> Iterator[Reader]:
        with ExitStack() as stack:
            with self._tracking():
                reader = stack.enter_context(fetch_rest(self.wrapped, target, start))
            yield _TrackedReader(reader, self)

    @contextmanager
    def _tracking(self) -> Iterator[None]:
        try:
            yield
        except ShiplineError as error:
            self.failures.append(error)
            raise


class _TrackedReader:
    def __init__(self, reader: Reader, source: _TrackedSource) -> None:
        self._reader = reader
        self._source = source

    def read(self, size: int = -1, /) -> bytes:
        with self._source._tracking():
            return self._reader.read(size)
