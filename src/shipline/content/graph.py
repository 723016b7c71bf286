"""Content that names other content: `successors` is the whole model, `copy_graph` the walk.

Copying, collecting, replicating and measuring are walks over it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from shipline.content.protocols import Advance, Fetcher, Reader, Store
from shipline.content.readers import fetch_all
from shipline.content.store import LocalStore
from shipline.errors import NotFound, ShiplineError
from shipline.oci import MANIFEST_LIMIT, Descriptor, Digest, Index, media, parse_manifest
from shipline.tasks import visit_graph


def document(source: Fetcher, node: Descriptor) -> bytes:
    """The bytes of a manifest or index."""
    return fetch_all(source, node, MANIFEST_LIMIT)


def successors(source: Fetcher, node: Descriptor) -> tuple[Descriptor, ...]:
    """What `node` names: manifests of an index, config and layers of a manifest, else nothing."""
    if node.media_type not in media.NAMED:
        return ()
    parsed = parse_manifest(document(source, node), node.media_type)
    if isinstance(parsed, Index):
        return parsed.manifests
    return (parsed.config, *parsed.layers)


_AT_ONCE = 8  # contents in flight, and threads


def copy_graph(
    source: Fetcher, destination: Store, root: Descriptor, advance: Advance | None = None
) -> None:
    """Copy `root` and all that it names. When this returns, `destination` has all of it.

    A parent is written after its children, so what exists at the destination is complete, and a
    broken copy is continued by the same call. An error says in a note which content it was, and
    which end failed.
    """
    nodes = {root.digest: root}
    watched = _Source(source)

    @contextmanager
    def explained(digest: Digest) -> Iterator[Descriptor]:
        try:
            yield nodes[digest]
        except ShiplineError as error:
            content = f"{digest} ({nodes[digest].media_type})"
            if error in watched.failures or isinstance(error, NotFound):
                error.add_note(f"while reading {content} from the source")
            else:
                error.add_note(f"while writing {content} to the destination")
            raise

    def named_by(digest: Digest) -> tuple[Digest, ...]:
        with explained(digest) as node:
            children = successors(watched, node)
        for child in children:
            nodes.setdefault(child.digest, child)
        return tuple(child.digest for child in children)

    def push(digest: Digest) -> None:
        with explained(digest) as node:
            # a registry sends the files of a local store from the disk: that one goes as it is
            destination.push(node, source if isinstance(source, LocalStore) else watched, advance)

    visit_graph([root.digest], named_by, push, at_once=_AT_ONCE)


class _Source:
    """A Fetcher that remembers how it failed: a push reads from it, and passes its errors on."""

    def __init__(self, source: Fetcher) -> None:
        self._source = source
        self.failures: list[ShiplineError] = []

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        with ExitStack() as stack:
            with self._noted():
                reader = stack.enter_context(self._source.fetch(target))
            yield _Noted(reader, self)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except ShiplineError as error:
            self.failures.append(error)
            raise


class _Noted:
    def __init__(self, reader: Reader, source: _Source) -> None:
        self._reader = reader
        self._source = source

    def read(self, size: int = -1, /) -> bytes:
        with self._source._noted():
            return self._reader.read(size)
