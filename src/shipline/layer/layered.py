"""LayeredToc: what a stack of layers shows, looked up without merging their tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shipline.layer.entry import Entry
from shipline.layer.paths import resolve
from shipline.layer.toc import Toc, steps


class LayeredToc:
    """A view on the tables of layers, the lowest first; a lookup asks the top first.

    Paths are relative and normal, as those of Entry; the root is the empty path.
    """

    def __init__(self, tocs: Sequence[Toc]) -> None:
        self.tocs = tuple(tocs)

    def with_layer(self, toc: Toc) -> LayeredToc:
        """The view with one more layer on top."""
        return LayeredToc((*self.tocs, toc))

    def lookup(self, path: str) -> Entry | None:
        """What is at `path`, following no link at all; None for nothing."""
        if not path:
            return Entry("", "dir", 0o755)
        implied = False
        way = steps(path)
        for toc in reversed(self.tocs):
            row, there, hides = toc.find(way)
            if row is not None:
                if implied and row[0] != "dir":
                    break
                return Entry(path, *row)
            implied = implied or there
            if hides:
                break
        return Entry(path, "dir", 0o755) if implied else None

    def children(self, path: str) -> list[str]:
        """The names in the directory `path`, sorted; nothing if it is not a directory."""
        found: set[str] = set()
        hidden: set[str] = set()
        way = steps(path)
        for toc in reversed(self.tocs):
            row, _, hides = toc.find(way)
            if row is not None and row[0] != "dir":
                break
            found.update(toc.rows(path).keys() - hidden)
            hidden |= toc.whiteouts.get(path, set())
            if hides or path in toc.opaque:
                break
        return sorted(found)

    def walk(self, path: str = "") -> Iterator[Entry]:
        """Everything below `path`, sorted in each directory, parents before their content."""
        for name in self.children(path):
            entry = self.lookup(f"{path}/{name}" if path else name)
            if entry is not None:
                yield entry
                if entry.kind == "dir":
                    yield from self.walk(entry.path)

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """The canonical form of `path` as `resolve` makes it. Raises SymlinkLoop."""
        return resolve(path, self.lookup, follow_last=follow_last)

    def open(self, path: str) -> int | None:
        """None: a table has no contents (see changeset.Lower)."""
        return None
