"""Where copied files go: the rules of COPY, over the table of contents of the layers below.

A `Placement` collects the entries of the new layer and answers questions about the resulting tree.
The rules are those of BuildKit's file operation: missing parents are created, links in the
destination's directory are followed, and an existing directory keeps its attributes when contents
are copied into it, but takes those of a source directory that is copied onto it.

`--chmod` takes octal digits, or the symbolic notation of chmod(1) as BuildKit reads it, which is
BSD's: a class can also be given the permissions of another (`g=u`), and `t` goes with every class
but `o` alone.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import islice

from msgspec import Struct

from shipline.errors import DockerfileError, UsageError
from shipline.layer import Content, Entry, Item, LayeredToc, Tree, entry_of, resolve

_SECOND = 1_000_000_000  # nanoseconds
_MODE = 0o755  # of created directories

Change = Callable[[int, bool], int]
"""From a mode, and whether it is that of a directory, to the new mode."""

_CLAUSE = re.compile(r"([ugoa]*)((?:[+=-][rwxXstugo]*)+)")
_ACTION = re.compile(r"([+=-])([rwxXstugo]*)")
_RUN = re.compile(r"[rwxXst]+|[ugo]")
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o007, "a": 0o6777}
_SHIFT = {"u": 6, "g": 3, "o": 0}


def octal_mode(text: str) -> int | None:
    """The mode written in octal digits, None for another text."""
    if not re.fullmatch("[0-7]+", text) or int(text, 8) > 0o7777:
        return None
    return int(text, 8)


def parse_mode(text: str) -> Change | None:
    """The change that `text` describes, None for no text.

    Raises DockerfileError for anything else.
    """
    if not text:
        return None
    octal = octal_mode(text)
    if octal is not None:
        return lambda mode, is_directory: octal
    clauses = [_CLAUSE.fullmatch(clause) for clause in text.split(",")]
    if not all(clauses):
        raise DockerfileError(
            f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777",
            code="dockerfile-flag",
            hint="or symbolic, like u=rwX,go=rX",
        )
    steps = [
        (clause[1], sign, run)
        for clause in clauses
        if clause is not None
        for sign, letters in _ACTION.findall(clause[2])
        for run in _RUN.findall(letters) or [""]
    ]

    def change(old: int, is_directory: bool) -> int:
        mode, executable = old, is_directory or bool(old & 0o111)
        for who, sign, run in steps:
            if run in _SHIFT:
                mode = _copy(mode, who, sign, run)
            else:
                mode = _permit(mode, executable, who, sign, run)
        return mode

    return change


def _copy(mode: int, who: str, sign: str, source: str) -> int:
    """Apply the permissions of the class `source` to the classes `who`."""
    bits = mode >> _SHIFT[source] & 0o7
    for one in _SHIFT:
        if not who or "a" in who or one in who:
            shift = _SHIFT[one]
            if sign == "=":
                mode &= ~(0o7 << shift)
            mode = mode & ~(bits << shift) if sign == "-" else mode | bits << shift
    return mode


def _permit(mode: int, executable: bool, who: str, sign: str, letters: str) -> int:
    reach = 0
    for one in who or "a":
        reach |= _WHO[one]
    bits = 0
    for letter in letters:
        bits |= _BITS.get(letter, 0o111 if executable else 0)
    if "t" in letters and set(who) != {"o"}:
        reach = reach | 0o1000 if who else 0o1000
    bits &= reach
    if sign == "+":
        return mode | bits
    return mode & ~bits if sign == "-" else mode & ~reach | bits


class CopyAttributes(Struct, frozen=True):
    """Owner and mode of copied files; None keeps those of the source. Times are whole seconds."""

    owner: tuple[int, int] | None = None
    change: Change | None = None

    def of(self, entry: Entry, path: str) -> Entry:
        """The entry with these attributes at `path`."""
        _, kind, mode, uid, gid, size, mtime_ns, link, major, minor, xattrs = entry
        if self.owner is not None:
            uid, gid = self.owner
        if self.change is not None and kind != "symlink":
            mode = self.change(mode, kind == "dir")
        whole_ns = mtime_ns // _SECOND * _SECOND
        return entry_of((path, kind, mode, uid, gid, size, whole_ns, link, major, minor, xattrs))


def entry_key(entry: Entry) -> dict[str, object]:
    """The fields of an entry for a cache key."""
    return entry._asdict() | {"xattrs": [[name, value.hex()] for name, value in entry.xattrs]}


class Placement:
    """The entries of a new layer on top of `below`."""

    def __init__(self, below: LayeredToc, owner: tuple[int, int] | None, now_ns: int) -> None:
        """`owner` is that of created directories; None: as mkdir(2) sets it."""
        self._below = below
        self._owner = owner
        self._now_ns = now_ns
        self._items: dict[str, Item] = {}
        self._inodes: dict[str, object] = {}  # equal for hard links to one file

    def items(self) -> Iterator[Item]:
        """The entries of the layer, parents first, existing parents included.

        A directory in which a name is new or becomes another file gets a new time.
        """
        items = self._items | {path: (entry, None) for path, entry in self._parents().items()}
        ordered = sorted(items, key=lambda path: path.replace("/", "\0"))
        if not self._inodes:
            yield from map(items.__getitem__, ordered)
            return
        first: dict[object, str] = {}
        for path in ordered:
            entry, content = items[path]
            earlier = first.setdefault(self._inodes.get(path, path), path)
            if earlier == path:
                yield entry, content
            else:
                yield entry._replace(kind="hardlink", link=earlier, size=0, xattrs=()), None

    def _parents(self) -> dict[str, Entry]:
        """The existing directories above placed entries."""
        found: dict[str, Entry] = {}
        changed: set[str] = set()
        for item, (entry, _) in self._items.items():
            path = item.rpartition("/")[0]
            if path in changed:
                continue
            if entry.kind != "dir" or self._below.lookup(item) is None:
                changed.add(path)
            while path and path not in self._items and path not in found:
                directory = self._below.lookup(path)
                if directory is None:
                    break
                found[path] = directory
                path = posixpath.dirname(path)
        now_ns = self._now_ns
        return {
            path: entry._replace(mtime_ns=now_ns) if path in changed else entry
            for path, entry in found.items()
        }

    def key(self) -> list[object]:
        """The entries of `items` for a cache key, without contents and the time of this build."""
        return [
            entry_key(entry._replace(mtime_ns=0) if entry.mtime_ns == self._now_ns else entry)
            for entry, _ in self.items()
        ]

    def lookup(self, path: str) -> Entry | None:
        """The entry at `path` in the resulting tree; a link at its end is not followed."""
        own = self._items.get(path)
        if own is not None:
            return own[0]
        if self._items and self._covered(path):
            return None
        return self._below.lookup(path)

    def resolve(self, path: str) -> str:
        """`path` without leading slash, with all links followed inside the root."""
        return resolve(path, self.lookup)

    def parents_key(self, path: str) -> list[object]:
        """The existing entries on the way to `path`, for a cache key: the layer repeats them.

        The time of the last one does not count, since the layer changes it.
        """
        found: list[object] = []
        while path:
            entry = self._below.lookup(path)
            if entry is not None:
                found.append(entry_key(entry if found else entry._replace(mtime_ns=0)))
            path = posixpath.dirname(path)
        return found

    def make_directories(
        self, path: str, mode: int = _MODE, *, owner: tuple[int, int] | None = None
    ) -> None:
        """Create the directory `path` and its parents, for `owner` where that is given.

        Raises UsageError where a file is.
        """
        done = ""
        for part in path.split("/") if path else ():
            done = f"{done}/{part}" if done else part
            entry = self.lookup(done)
            if entry is None:
                self._items[done] = (self._new_directory(done, mode, owner or self._owner), None)
            elif entry.kind != "dir":
                raise UsageError(f"/{done} is not a directory", code="copy-destination")

    def _new_directory(self, path: str, mode: int, owner: tuple[int, int] | None) -> Entry:
        """As mkdir(2) without an umask creates it, which BuildKit's daemon has not either: below a
        setgid directory it is setgid, too, with its group. Other special bits are not for it.
        """
        mode &= 0o777
        uid, gid = owner or (0, 0)
        parent = self.lookup(posixpath.dirname(path))
        if parent is not None and parent.mode & 0o2000:
            mode |= 0o2000
            gid = gid if owner else parent.gid
        return Entry(path, "dir", mode, uid, gid, mtime_ns=self._now_ns)

    def is_directory(self, path: str) -> bool:
        entry = self.lookup(path)
        return path == "" or (entry is not None and entry.kind == "dir")

    def target_of(self, destination: str, name: str, *, contents: bool, mode: int = _MODE) -> str:
        """The path for a source called `name`; `contents`: for the contents of a directory.

        Creates the directories on the way, with `mode`.
        """
        directory, last = posixpath.split(destination)
        if last in ("", "."):
            target = self.resolve(directory)
            self.make_directories(target, mode)
        else:
            parent = self.resolve(directory)
            self.make_directories(parent, mode)
            target = f"{parent}/{last}" if parent else last
            entry = self.lookup(target)
            if entry is not None and entry.kind == "symlink":
                target = self.resolve(target)
                self.make_directories(posixpath.dirname(target), mode)
        if contents:
            self.make_directories(target, mode)
            return target
        if self.is_directory(target):
            return f"{target}/{name}" if target else name
        return target

    def place(self, entry: Entry, content: Content) -> None:
        """Add one entry. Raises UsageError where a directory meets a file."""
        self._require_room(entry.path, entry.kind == "dir")
        self._put(entry, content)

    def _put(self, entry: Entry, content: Content, *, same_as: str = "") -> None:
        """Add or replace an entry; `same_as` is an earlier hard link to the same file.

        Other hard links to a replaced file keep its content.
        """
        path = entry.path
        there = self._items.get(path)
        if there is not None and there[0].kind == "dir" and entry.kind != "dir":
            for inside in [name for name in self._items if name.startswith(f"{path}/")]:
                del self._items[inside]
                self._inodes.pop(inside, None)
        self._inodes.pop(path, None)
        if same_as:
            first = self._items.get(same_as)
            if first is None or first[0].kind == "dir":
                raise UsageError(
                    f"/{path} is a hard link to /{same_as}, which was replaced",
                    code="copy-destination",
                )
            entry, content = first[0]._replace(path=path), first[1]
            self._inodes[path] = self._inodes.setdefault(same_as, object())
        self._items[path] = (entry, content)

    def require_room(self, target: str, tree: Tree) -> None:
        """Raise the UsageError that `place_tree` would raise.

        Looks only at names that both trees have, so it is cheap where nothing is overwritten.
        """
        prefix = f"{target}/" if target else ""

        def names(directory: str) -> list[str]:
            return self._below.children((prefix + directory).rstrip("/"))

        for path, is_directory in tree.shared(names):
            self._require_room(prefix + path, is_directory)

    def _require_room(self, path: str, is_directory: bool) -> None:
        there = self.lookup(path)
        if there is None or is_directory == (there.kind == "dir"):
            return
        if is_directory:
            raise UsageError(f"cannot copy to non-directory: /{path}", code="copy-destination")
        raise UsageError(f"cannot replace to directory /{path} with file", code="copy-destination")

    def place_one(self, entry: Entry, content: Content) -> None:
        """Add one file; the directory that holds it gets a new time."""
        self.place(entry, content)
        self.renew(posixpath.dirname(entry.path))

    def renew(self, path: str) -> None:
        """Give the directory at `path` the time of now. What is not placed gets it by `items`."""
        if path in self._items:
            self.touch(path, self._now_ns)

    def touch(self, path: str, mtime_ns: int) -> None:
        """Set the time of the directory at `path`."""
        entry = self.lookup(path)
        if path and entry is not None:
            self._items[path] = (entry._replace(mtime_ns=mtime_ns), None)

    def place_parent(self, entry: Entry) -> None:
        """Add a parent directory of what `--parents` copies; an existing one keeps its owner.

        Raises UsageError where a file is.
        """
        there = self.lookup(entry.path)
        if there is not None and there.kind == "dir":
            entry = there._replace(mode=entry.mode)
        self.place(entry._replace(mtime_ns=self._now_ns), None)

    def place_archive(
        self, target: str, items: Iterable[Item], attributes: CopyAttributes, listed: Container[str]
    ) -> None:
        """Add the contents of an archive, which is unpacked with `target` as its root.

        Symbolic links above an entry are followed. An entry replaces what has its path, except a
        directory another. Directories that are not `listed` only lead to other entries: they are
        created, for root, where they are missing. Raises UsageError where a file is.
        """
        prefix = f"{target}/" if target else ""
        places: dict[str, str] = {}  # of entries that links lead elsewhere
        changed: set[str] = set()  # directories
        own_times: set[str] = set()

        def lookup(path: str) -> Entry | None:
            return self.lookup(prefix + path)

        for entry, content in items:
            parent, _, name = entry.path.rpartition("/")
            place = posixpath.join(resolve(parent, lookup), name)
            implied = entry.kind == "dir" and entry.path not in listed
            if implied:
                place = resolve(place, lookup)
                self.make_directories((prefix + place).rstrip("/"), owner=(0, 0))
            if place != entry.path:
                places[entry.path] = place
            if not implied:
                placed = attributes.of(
                    entry._replace(mtime_ns=max(0, entry.mtime_ns)), prefix + place
                )
                first = prefix + places.get(entry.link, entry.link)
                self._put(placed, content, same_as=first if entry.kind == "hardlink" else "")
                own_times.add(placed.path)
                changed.add(posixpath.dirname(placed.path))
        for path in changed - own_times:
            self.renew(path)

    def place_tree(self, target: str, items: Iterable[Item], attributes: CopyAttributes) -> None:
        """Add the contents of a directory to the directory `target`."""
        prefix = f"{target}/" if target else ""
        fresh = not self._below.children(target) and not any(
            path.startswith(prefix) for path in self._items
        )
        for entry, content in items:
            path = prefix + entry[0]
            placed = attributes.of(entry, path)
            if fresh and placed[1] != "hardlink":
                self._items[path] = (placed, content)
                continue
            self._require_room(path, placed.kind == "dir")
            first = prefix + entry.link if entry.kind == "hardlink" else ""
            self._put(placed, content, same_as=first)

    def can_stream(self, target: str) -> bool:
        """Whether `stream_tree` serves: the directory `target` is empty, all entries lead to it."""
        place = f"{target}/"
        leads = all(place.startswith(f"{path}/") for path in self._items)
        return leads and not self._below.children(target)

    def stream_tree(
        self, target: str, items: Iterable[Item], attributes: CopyAttributes
    ) -> Iterator[Item]:
        """What `items` gives after `place_tree`, made while it is used; there are no hard links."""
        prefix = f"{target}/" if target else ""
        placed = ((attributes.of(entry, prefix + entry[0]), content) for entry, content in items)
        for item in islice(placed, 1):  # the first one shows that its directory changes
            self._items[item[0].path] = item
        yield from self.items()
        yield from placed

    def _covered(self, path: str) -> bool:
        """Whether a new entry above `path` is not a directory."""
        while path := posixpath.dirname(path):
            own = self._items.get(path)
            if own is not None:
                return own[0].kind != "dir"
        return False
