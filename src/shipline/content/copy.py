"""One copy for push, pull, mirror and export: children before parents, equal content once."""

from __future__ import annotations

from functools import partial

from shipline.content.graph import successors
from shipline.content.protocols import Advance, Fetcher, Store
from shipline.errors import ShiplineError
from shipline.oci import Descriptor, Digest
from shipline.tasks import Limiter, Once, TaskGroup

_AT_ONCE = 8  # blobs in flight


def copy_graph(
    source: Fetcher, destination: Store, root: Descriptor, advance: Advance | None = None
) -> None:
    """Copy `root` and all that it names. When this returns, `destination` has all of it.

    A parent is written after its children, so what exists at the destination is complete, and a
    broken copy is continued by the same call. An error says in a note which content it was.
    """
    once: Once[None] = Once()
    limiter = Limiter(_AT_ONCE)

    def visit(node: Descriptor) -> None:
        children: dict[Digest, Descriptor] = {}
        for child in successors(source, node):
            children.setdefault(child.digest, child)
        with TaskGroup() as group:
            for child in children.values():
                group.start(once.get, child.digest, partial(visit, child))
        with limiter:
            try:
                destination.push(node, source, advance)
            except ShiplineError as error:
                error.add_note(f"while copying {node.digest} ({node.media_type})")
                raise

    visit(root)
