"""The table of contents of a layer, and of a stack of layers."""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, field

from shipline.content import seal, unseal
from shipline.errors import ContentError
from shipline.layer.entry import OPAQUE, PREFIX, RESERVED, Entry, Item, Kind, Xattrs, resolve

Row = tuple[Kind, int, int, int, int, int, str, int, int, Xattrs]
"""An Entry without its path."""

Steps = list[tuple[str, str]]
"""A path from the root: each directory, with the next name in it."""

_KIND = b"shipline-toc-2\n"


_NO_ROWS: Mapping[str, Row | None] = {}


class Toc(Struct, frozen=True):
    """What a layer adds and hides (image specification, layer.md, "Whiteouts").

    `directories` maps a directory to its entries by name; None is a directory only implied by its
    content. `whiteouts` maps a directory to the names hidden in lower layers, `opaque` holds the
    directories hidden entirely; both imply the directory. A hard link is a copy of its target's
    row.
    """

    directories: dict[str, dict[str, Row | None]] = field(default_factory=dict)
    whiteouts: dict[str, set[str]] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return sum(map(len, self.directories.values()))

    def entries(self) -> Iterator[Entry]:
        """The entries of the layer, by directory, without implied directories."""
        for directory, rows in self.directories.items():
            for name, row in rows.items():
                if row is not None:
                    yield Entry(f"{directory}/{name}" if directory else name, *row)

    def rows(self, directory: str) -> Mapping[str, Row | None]:
        """The rows of `directory`, by name."""
        return self.directories.get(directory, _NO_ROWS)

    def row(self, path: str) -> Row | None:
        """The row of `path`; None if absent, and for implied directories."""
        directory, _, name = path.rpartition("/")
        return self.directories.get(directory, _NO_ROWS).get(name)

    def lookup(self, path: str) -> Entry | None:
        """The layer's entry at `path`."""
        row = self.row(path)
        return None if row is None else Entry(path, *row)

    def find(self, steps: Steps) -> tuple[Row | None, bool, bool]:
        """(row, exists, hides): the row of a path, whether the layer has the path, and whether
        lower layers are hidden there. An implied directory exists without a row.
        """
        hides = False
        row: Row | None = None
        for directory, name in steps:
            if row is not None and row[0] != "dir":
                return None, False, True
            hides = hides or directory in self.opaque
            hides = hides or name in self.whiteouts.get(directory, ())
            rows = self.directories.get(directory, _NO_ROWS)
            if name not in rows:
                return None, False, hides
            row = rows[name]
        return row, True, hides

    def dump(self) -> bytes:
        """The table serialised for `load`, on the same machine."""
        return seal(_KIND, marshal.dumps((self.directories, self.whiteouts, self.opaque), 4))

    @classmethod
    def load(cls, dumped: bytes) -> Toc:
        """The table from `dump`. Raises ContentError if damaged, or of another version."""
        data = unseal(_KIND, dumped)
        if data is None:
            raise ContentError(
                "the table of contents is damaged, or of another version", code="estargz"
            )
        directories, whiteouts, opaque = marshal.loads(data)
        return cls(directories, whiteouts, opaque)


class TocBuilder:
    """Builds the table of the entries that pass through it."""

    def __init__(self) -> None:
        self._toc = Toc({"": {}})

    def through(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items, each added to the table before it is yielded."""
        add = self.add
        for item in items:
            add(item[0])
            yield item

    def toc(self) -> Toc:
        """The table of the entries added so far."""
        return self._toc

    def add(self, entry: Entry) -> None:
        """Add an entry; a later one of the same name replaces it."""
        path = entry[0]
        directory, _, name = path.rpartition("/")
        if name[:4] == PREFIX:
            self._hide(directory, name)
            return
        rows = self._toc.directories.get(directory)
        if rows is None:
            rows = self._directory(directory)
        row: Row | None = entry[1:]
        if entry[1] == "hardlink":
            row = self._toc.row(entry.link) or row
        if name in rows and entry[1] != "dir":
            self._remove_below(path)
        rows[name] = row

    def _hide(self, directory: str, name: str) -> None:
        if name.startswith(RESERVED) and name != OPAQUE:
            return
        self._directory(directory)
        if name == OPAQUE:
            self._toc.opaque.add(directory)
        else:
            names = self._toc.whiteouts.setdefault(directory, set())
            names.add(name.removeprefix(PREFIX))

    def _directory(self, path: str) -> dict[str, Row | None]:
        """The rows of a new directory; its parents are implied."""
        parent, _, name = path.rpartition("/")
        row = self._toc.rows(parent).get(name)
        if row is not None and row[0] == "dir":  # no link leads there
            return self._toc.directories.setdefault(path, {})
        implied = resolve(path, self._toc.lookup)
        rows = self._toc.directories.setdefault(implied, {})
        while implied:
            implied, _, name = implied.rpartition("/")
            self._toc.directories.setdefault(implied, {}).setdefault(name, None)
        return rows

    def _remove_below(self, path: str) -> None:
        if path in self._toc.directories:
            below = [name for name in self._toc.directories if name.startswith(path + "/")]
            for name in (path, *below):
                del self._toc.directories[name]


def steps(path: str) -> Steps:
    """The steps to `path`."""
    found: Steps = []
    while path:
        directory, _, name = path.rpartition("/")
        found.append((directory, name))
        path = directory
    return found[::-1]


class LayeredToc:
    """A merged view of the tables of layers, lowest first.

    Paths are relative and normal, as those of Entry; the root is the empty path.
    """

    def __init__(self, tocs: Sequence[Toc]) -> None:
        self.tocs = tuple(tocs)

    def lookup(self, path: str) -> Entry | None:
        """The entry at `path`, without following links; None if absent."""
        if not path:
            return Entry("", "dir", 0o755)
        implied = False
        path_steps = steps(path)
        for toc in reversed(self.tocs):
            row, exists, hides = toc.find(path_steps)
            if row is not None:
                if implied and row[0] != "dir":
                    break
                return Entry(path, *row)
            implied = implied or exists
            if hides:
                break
        return Entry(path, "dir", 0o755) if implied else None

    def layer_of(self, path: str) -> int | None:
        """The number, from 0 for the lowest, of the layer whose entry is seen at `path`; None if it
        is absent.
        """
        path_steps = steps(path)
        for number in reversed(range(len(self.tocs))):
            row, _, hides = self.tocs[number].find(path_steps)
            if row is not None:
                return number
            if hides:
                return None
        return None

    def children(self, path: str) -> list[str]:
        """The sorted names in the directory `path`; empty if it is not a directory."""
        found: set[str] = set()
        hidden: set[str] = set()
        path_steps = steps(path)
        for toc in reversed(self.tocs):
            row, _, hides = toc.find(path_steps)
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
        """None: a table has no contents (see `Lower`)."""
        return None
