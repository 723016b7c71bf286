"""Toc: the table of contents of one layer, and of layers on top of each other."""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from shipline.content import seal, unseal
from shipline.errors import ContentError
from shipline.layer.entry import OPAQUE, PREFIX, RESERVED, Entry, Item, Kind, Xattrs, resolve

Row = tuple[Kind, int, int, int, int, int, str, int, int, Xattrs]
"""An Entry without its path."""

Steps = list[tuple[str, str]]
"""A path from the root down: each directory on it, with the name in it that leads on."""

_KIND = b"shipline-toc-2\n"


_NOTHING: Mapping[str, Row | None] = {}


@dataclass(frozen=True, slots=True)
class Toc:
    """What a layer adds and what it hides (image specification, layer.md, "Whiteouts").

    `directories` maps the path of a directory to what the layer has in it, by name; None is a
    directory that only its content implies. `whiteouts` maps a directory to the names that are
    hidden in lower layers, `opaque` holds the directories of which lower layers show nothing; both
    imply the directory. A hard link is a copy of the row that it repeats.
    """

    directories: dict[str, dict[str, Row | None]] = field(default_factory=dict)
    whiteouts: dict[str, set[str]] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return sum(map(len, self.directories.values()))

    def entries(self) -> Iterator[Entry]:
        """What the layer adds, by directory; implied directories are left out."""
        for directory, rows in self.directories.items():
            for name, row in rows.items():
                if row is not None:
                    yield Entry(f"{directory}/{name}" if directory else name, *row)

    def rows(self, directory: str) -> Mapping[str, Row | None]:
        """What the layer has in `directory`, by name."""
        return self.directories.get(directory, _NOTHING)

    def row(self, path: str) -> Row | None:
        """What the layer says about `path`; None for nothing and for implied directories."""
        directory, _, name = path.rpartition("/")
        return self.directories.get(directory, _NOTHING).get(name)

    def lookup(self, path: str) -> Entry | None:
        """The entry that this layer adds at `path`."""
        row = self.row(path)
        return None if row is None else Entry(path, *row)

    def find(self, steps: Steps) -> tuple[Row | None, bool, bool]:
        """What the layer says of a path: its row, whether the path is there, whether lower layers
        do not show through. A directory that is only implied is there and has no row.
        """
        hides = False
        row: Row | None = None
        for directory, name in steps:
            if row is not None and row[0] != "dir":
                return None, False, True
            hides = hides or directory in self.opaque
            hides = hides or name in self.whiteouts.get(directory, ())
            rows = self.directories.get(directory, _NOTHING)
            if name not in rows:
                return None, False, hides
            row = rows[name]
        return row, True, hides

    def dump(self) -> bytes:
        """A form for `load`, on this machine."""
        return seal(_KIND, marshal.dumps((self.directories, self.whiteouts, self.opaque), 4))

    @classmethod
    def load(cls, dumped: bytes) -> Toc:
        """What was dumped. Raises ContentError for damaged bytes, or those of another version."""
        data = unseal(_KIND, dumped)
        if data is None:
            raise ContentError("a damaged table of contents, or one of another version")
        directories, whiteouts, opaque = marshal.loads(data)
        return cls(directories, whiteouts, opaque)


class TocBuilder:
    """Makes the table of the entries that pass through it, on their way to or from a tar."""

    def __init__(self) -> None:
        self._toc = Toc({"": {}})

    def through(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items, each entered into the table before it is passed on."""
        add = self.add
        for item in items:
            add(item[0])
            yield item

    def toc(self) -> Toc:
        """The table of what was added so far."""
        return self._toc

    def add(self, entry: Entry) -> None:
        """Enter a name; a later entry of the same name replaces the earlier."""
        directory, _, name = entry[0].rpartition("/")
        if name.startswith(PREFIX):
            self._hide(directory, name)
            return
        rows = self._toc.directories.get(directory)
        if rows is None:
            rows = self._directory(directory)
        row: Row | None = entry[1:]
        if entry[1] == "hardlink":
            row = self._toc.row(entry.link) or row
        if name in rows and entry[1] != "dir":
            self._remove_below(entry[0])
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
        """The rows of a directory that had none; what implies its parents implies it."""
        place = resolve(path, self._toc.lookup)
        rows = self._toc.directories.setdefault(place, {})
        while place:
            place, _, name = place.rpartition("/")
            self._toc.directories.setdefault(place, {}).setdefault(name, None)
        return rows

    def _remove_below(self, path: str) -> None:
        if path in self._toc.directories:
            below = [name for name in self._toc.directories if name.startswith(path + "/")]
            for name in (path, *below):
                del self._toc.directories[name]


def steps(path: str) -> Steps:
    """The way to `path`."""
    found: Steps = []
    while path:
        directory, _, name = path.rpartition("/")
        found.append((directory, name))
        path = directory
    return found[::-1]


class LayeredToc:
    """A view on the tables of layers, the lowest first; a lookup asks the top first.

    Paths are relative and normal, as those of Entry; the root is the empty path.
    """

    def __init__(self, tocs: Sequence[Toc]) -> None:
        self.tocs = tuple(tocs)

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
