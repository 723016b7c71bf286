"""Scanning a directory tree: its digest as a cache key, and its entries for a tar."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path

from shipline.files import open_without_links
from shipline.layer.entry import (
    CAPABILITY,
    KINDS,
    PREFIX,
    ContentDigests,
    Contents,
    Entry,
    Item,
    OpenDirectory,
    Source,
    capability,
    entry_at,
    entry_of,
    unreadable,
)
from shipline.layer.stat_cache import INODE, LINKS, MODE, NAME, SIZE, Directories, Stat, StatCache
from shipline.oci import Digest
from shipline.tasks import CPUS, check, ordered_map

_Found = list[tuple[str, tuple[list[Stat], bool]]]

Prune = Callable[[str, bool], bool | None]
"""Given a path relative to the root, and whether it is a directory: whether to omit it; None for a
directory that is kept only if it has entries."""

_BATCH_FILES, _BATCH_BYTES = 128, 8 << 20
_CHUNK = 1 << 20  # bytes
_DIGEST = 32  # bytes
_NO_CONTENT = b"-"  # of what has none, such as directories
_WORTH_FORKING = 4_000  # entries, after which another process helps to find the others
_PLACE = struct.Struct("<II")  # checksum and length of a place
_LONGEST_PATH = 4000  # bytes
_PATIENCE = 3  # times as long as this process took for its half, a second at least
_status: Callable[[os.stat_result], tuple[int, int, int, int, int, int, int, int]] = attrgetter(
    *("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_nlink")
)
_LIST = os.O_RDONLY | os.O_DIRECTORY


def scan(
    root: int | Path,
    path: str = "",
    *,
    prune: Prune | None = None,
    cache: StatCache | None = None,
    whiteouts: bool = False,
    sockets: bool = False,
    capabilities: bool = True,
) -> Tree:
    """The tree at `path` below the directory `root`: a directory with its content, or one file.

    Symbolic links are not followed. Sockets (with `sockets` they are empty files, as COPY has
    them), whiteouts of overlayfs (unless `whiteouts`) and pruned paths are omitted; a pruned
    directory is not entered. Without `capabilities` files have none,
    and must have none in the `cache`. Raises ContentError for absent or unreadable files.
    """
    opened = OpenDirectory(root)
    started_ns = time.time_ns()
    scanner = _Scanner(opened, prune, whiteouts=whiteouts, sockets=sockets)
    try:
        status = os.stat(path or ".", dir_fd=opened.fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            scanner.walk(opened.fd, path)
        else:
            directory, _, name = path.rpartition("/")
            scanner.directories[directory] = ([(name, *_status(status))], False)
    except OSError as error:
        raise unreadable(error) from error
    return Tree(opened, path, scanner.directories, started_ns, cache, capabilities=capabilities)


def unpacked_items(root: Path) -> Iterator[Item]:
    """The items of a layer that `unpack` wrote to the directory `root` with whiteouts of overlayfs,
    in the order of layers that shipline makes; opaque directories appear as others.
    """
    hidden: set[str] = set()
    for entry, content in scan(root, whiteouts=True).items():
        is_device = entry.kind == "char" and not entry.major and not entry.minor
        if is_device or entry.link in hidden:  # overlayfs links all its whiteouts to one file
            hidden.add(entry.path)
            directory, _, name = entry.path.rpartition("/")
            path = f"{directory}/{PREFIX}{name}" if directory else PREFIX + name
            yield Entry(path, "file", 0), b""
        else:
            yield entry, content


class _Scanner:
    """The walk: each directory's sorted names, and whether none was pruned."""

    def __init__(
        self, root: OpenDirectory, prune: Prune | None, *, whiteouts: bool, sockets: bool
    ) -> None:
        self._whiteouts = whiteouts
        self._kinds = {*KINDS, stat.S_IFSOCK} if sockets else {*KINDS}
        self._prune = prune
        self._is_elsewhere: Callable[[str], bool] = lambda path: False
        self._on_end: Callable[[str], object] | None = None  # of a walk backwards
        self._seen = 0  # entries
        self.directories: Directories = {}

    def _enter(self, parent: int, name: str, path: str) -> None:
        check()
        if self._is_elsewhere(path):
            return
        fd = open_without_links(parent, name, _LIST)
        try:
            stats = _listed(fd, self._kinds, whiteouts=self._whiteouts)
            listed = len(stats)
            self._seen += listed
            prefix = f"{path}/" if path else ""
            emptied: set[str] = set()
            if (prune := self._prune) is not None:
                verdicts = [(one, prune(prefix + one[NAME], _is_dir(one))) for one in stats]
                stats = [one for one, verdict in verdicts if not verdict]
                emptied = {one[NAME] for one, verdict in verdicts if verdict is None}
            stats.sort()
            self.directories[path] = (stats, False)
            for one in reversed(stats) if self._on_end else stats:
                if one[MODE] & 0o170000 == stat.S_IFDIR:
                    self._enter(fd, one[NAME], prefix + one[NAME])
            emptied = {name for name in emptied if not self._has_entries(prefix + name)}
            for name in emptied:
                self.directories.pop(prefix + name, None)
            kept = [one for one in stats if one[NAME] not in emptied] if emptied else stats
            self.directories[path] = (kept, len(kept) == listed)
            if self._on_end is not None:
                self._on_end(path)
        finally:
            os.close(fd)

    def _has_entries(self, path: str) -> bool:
        return path in self.directories and self.directories[path][0] != []

    def walk(self, root: int, path: str) -> None:
        """Enter the directory `path`. Once many entries were seen, another process helps."""
        other: _OtherEnd | None = None

        def is_found(inside: str) -> bool:
            nonlocal other
            if other is None and self._seen >= _WORTH_FORKING and CPUS > 1:
                other = _OtherEnd(partial(self._walk_back, root, path), root, stack)
            found = other.found(inside) if other is not None else {}
            if inside in found:
                self._take(inside, found)
            return inside in found

        self._is_elsewhere = is_found
        with ExitStack() as stack:
            self._enter(root, path or ".", path)

    def _walk_back(self, root: int, path: str, end: _OtherEnd) -> _Found:
        """What `end` finds of the directory `path`."""
        self.directories, self._is_elsewhere, self._on_end = {}, end.is_met, end.come_to
        self._enter(root, path or ".", path)
        return list(self.directories.items())

    def _take(self, path: str, found: Directories) -> None:
        """Take a directory from what was found, and those below it."""
        self.directories[path] = found[path]
        for one in found[path][0]:
            if _is_dir(one):
                self._take(f"{path}/{one[NAME]}", found)


class _OtherEnd:
    """A process that walks the same tree from its end until it meets this one. How far it has come
    is in memory that both have, with a checksum, since it may be read while it is written.
    """

    def __init__(self, walk: Callable[[_OtherEnd], _Found], root: int, stack: ExitStack) -> None:
        """The process has the open directory `root`, and ends with the stack."""
        import mmap  # few trees are that large

        from shipline.layer.forks import aside

        self._memory = mmap.mmap(-1, 1 + _PLACE.size + _LONGEST_PATH)
        self._found: Directories | None = None
        self._result = stack.enter_context(aside(partial(walk, self), {root}))
        self._began = time.monotonic()

    def come_to(self, path: str) -> None:
        """Say there that `path` and all that follows is found."""
        place = _place(path)
        if 0 < len(place) <= _LONGEST_PATH:  # of the root itself there is nothing to say
            end = 1 + _PLACE.size + len(place)
            self._memory[1:end] = _PLACE.pack(zlib.crc32(place), len(place)) + place

    def is_met(self, path: str) -> bool:
        """Whether there is no more to find there."""
        return self._memory[0] != 0

    def found(self, path: str) -> Directories:
        """All that was found there, once `path` was; it ends then. Empty until then, and if it
        failed.
        """
        if self._found is None and self._has(path):
            self._memory[0] = 1
            patience_s = max(1.0, (time.monotonic() - self._began) * _PATIENCE)
            self._found = dict(self._result(patience_s) or ())
        return self._found or {}

    def _has(self, path: str) -> bool:
        checksum, length = _PLACE.unpack_from(self._memory, 1)
        place = self._memory[1 + _PLACE.size : 1 + _PLACE.size + length]
        return place != b"" and zlib.crc32(place) == checksum and place <= _place(path)


def _place(path: str) -> bytes:
    """Paths in the order of a walk."""
    return path.replace("/", "\0").encode("utf-8", "surrogatepass")


def _listed(directory: int, kinds: Collection[int], *, whiteouts: bool) -> list[Stat]:
    """The stats of a directory's entries of these `kinds`. A whiteout in a lower directory of
    overlayfs appears as a device 0/0; in a directory of only one layer, the mount lists the name
    but stat(2) fails.
    """
    try:
        with os.scandir(directory) as found:
            stats = [(one.name, *_status(one.stat(follow_symlinks=False))) for one in found]
    except FileNotFoundError:
        with os.scandir(directory) as found:
            shown = [one for one in found if not _hides(one)]
        stats = [(one.name, *_status(one.stat(follow_symlinks=False))) for one in shown]
    return [
        one
        for one in stats
        if one[MODE] & 0o170000 in kinds and (whiteouts or not _is_whiteout(directory, one))
    ]


def _hides(one: os.DirEntry[str]) -> bool:
    if one.is_file(follow_symlinks=False) or one.is_dir(follow_symlinks=False) or one.is_symlink():
        return False
    try:
        one.stat(follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False


def _is_whiteout(directory: int, one: Stat) -> bool:
    if one[MODE] & 0o170000 != stat.S_IFCHR:
        return False
    return os.stat(one[NAME], dir_fd=directory, follow_symlinks=False).st_rdev == 0


def _is_socket(one: Stat) -> bool:
    return one[MODE] & 0o170000 == stat.S_IFSOCK


def _is_file(one: Stat) -> bool:
    return one[MODE] & 0o170000 == stat.S_IFREG


def _is_dir(one: Stat) -> bool:
    return one[MODE] & 0o170000 == stat.S_IFDIR


class Tree:
    """The result of a scan; contents are read only for the digest, and through the items."""

    def __init__(
        self,
        root: OpenDirectory,
        path: str,
        directories: Directories,
        started_ns: int,
        cache: StatCache | None,
        *,
        capabilities: bool,
    ) -> None:
        self._capabilities = capabilities
        self._root = root
        self._path = path
        self._directories = directories
        self._started_ns = started_ns
        self._cache = cache
        self._lock = threading.Lock()
        self._found: dict[str, list[bytes | None]] | None = None
        self._missing: list[_Missing] = []
        self._noted: ContentDigests | None = None
        self._read: dict[str, list[bytes]] = {}
        self._fingerprint = b""
        self._digests: dict[tuple[int, int] | None, Digest] = {}

    def __len__(self) -> int:
        return sum(len(stats) for stats, _ in self._directories.values())

    def entries(self) -> Iterator[Entry]:
        """The entries of `items`."""
        return (entry for entry, _ in self.items())

    def has_stats_of(self, other: Tree) -> bool:
        """Whether another scan has found the same: names, sizes, owners, modes and times."""
        return self._directories == other._directories

    def shared(
        self, names: Callable[[str], Collection[str]], directory: str = ""
    ) -> Iterator[tuple[str, bool]]:
        """The paths that are also in another tree, which has `names(path)` in its directory `path`.

        Yields the path and whether it is a directory here.
        """
        other_names = set(names(directory))
        for one in self._directories["/".join(filter(None, (self._path, directory)))][0]:
            if one[NAME] in other_names:
                path = f"{directory}/{one[NAME]}" if directory else one[NAME]
                yield path, _is_dir(one)
                if _is_dir(one):
                    yield from self.shared(names, path)

    def items(self) -> Iterator[Item]:
        """All entries, sorted in each directory, parents before their content.

        Paths are relative to the scanned directory; a single file has its name. Further names of a
        file are hardlinks.
        """
        directory = self._path
        if directory not in self._directories:
            directory = directory.rpartition("/")[0]
        yield from self._items_in(directory, "", {})

    def _items_in(self, directory: str, shown: str, first: dict[int, str]) -> Iterator[Item]:
        stats = self._directories[directory][0]
        nothing: list[bytes | None] = [None] * len(stats)
        contents = (self._read or self._found or {}).get(directory, nothing)
        inside = f"{directory}/" if directory else ""
        for one, content in zip(stats, contents, strict=True):
            path, kind = shown + one[NAME], one[MODE] & 0o170000
            if kind == stat.S_IFDIR:
                yield _entry(one, path), None
                yield from self._items_in(inside + one[NAME], path + "/", first)
                continue
            if one[LINKS] > 1:
                earlier = first.setdefault(one[INODE], path)
                if earlier != path:
                    yield _entry(one, path)._replace(kind="hardlink", link=earlier, size=0), None
                    continue
            if kind == stat.S_IFREG and not self._capabilities:
                yield (
                    _entry(one, path),
                    Source(self._root, inside + one[NAME], self._noted, content),
                )
            else:
                yield self._item(one, path, inside + one[NAME], content)

    def _item(self, one: Stat, path: str, file_path: str, content: bytes | None) -> Item:
        entry = _entry(one, path)
        try:
            if _is_socket(one):
                return entry, b""
            if entry[1] != "file":
                return (entry_at(self._root, file_path) or entry)._replace(path=path), None
            if self._capabilities:
                place = f"{self._root.path}/{file_path}"
                if raw := content[_DIGEST:] if content else capability(place):
                    entry = entry._replace(xattrs=((CAPABILITY, raw),))
        except OSError as error:
            raise unreadable(error) from error
        return entry, Source(self._root, file_path, self._noted, content)

    def digest(self, owner: tuple[int, int] | None = None) -> Digest:
        """The digest of paths, kinds, modes, owners, links, capabilities and contents, without
        times.

        `owner`, a uid and a gid, replaces all owners. The name of a single file is ignored. Reads
        files that are not cached; raises ContentError if that fails.
        """
        with self._lock:
            if owner not in self._digests:
                self._digests[owner] = self._cached_digest(owner)
            return self._digests[owner]

    def _cached_digest(self, owner: tuple[int, int] | None) -> Digest:
        if self._cache is None:
            return self._read_digest(owner)
        if self._is_cached() and (found := self._cache.find_tree(self._key(owner))):
            return Digest.parse(found)
        digest = self._read_digest(owner)
        if self._is_cached():
            self._cache.put_tree(self._key(owner), str(digest))
        return digest

    def _is_cached(self) -> bool:
        """Whether the cache has all contents."""
        if not self._fingerprint and self._cache is not None:
            self._fingerprint = self._cache.fingerprint(self._path, self._directories)
        return self._fingerprint != b""

    def _key(self, owner: tuple[int, int] | None) -> bytes:
        return self._fingerprint + repr(owner).encode()

    def _read_digest(self, owner: tuple[int, int] | None) -> Digest:
        if not self._read:
            self._read = self._contents()
        return self._digest(owner)

    def _digest(self, owner: tuple[int, int] | None) -> Digest:
        if self._path in self._directories:
            return Digest("sha256", self._directory_digest(self._path, owner).hex())
        directory = self._path.rpartition("/")[0]
        one = ("", *self._directories[directory][0][0][1:])
        row = _row(one, self._read[directory][0], owner)
        return Digest("sha256", hashlib.sha256(row).hexdigest())

    def _directory_digest(self, directory: str, owner: tuple[int, int] | None) -> bytes:
        inside = f"{directory}/" if directory else ""
        rows = []
        for one, content in zip(
            self._directories[directory][0], self._read[directory], strict=True
        ):
            if one[MODE] & 0o170000 == stat.S_IFDIR:
                content = self._directory_digest(inside + one[NAME], owner)
            rows.append(_row(one, content, owner))
        return hashlib.sha256(b"".join(rows)).digest()

    def rows(
        self, owner: tuple[int, int] | None = None
    ) -> Iterator[tuple[str, int, int, int, bytes]]:
        """What `digest` covers of each entry: path, mode with type, uid, gid, and what identifies
        its content. Reads no file that `digest` has not read.
        """
        with self._lock:
            read = self._read or self._contents()
        top = self._path if self._path in self._directories else self._path.rpartition("/")[0]
        start = len(top) + 1 if top else 0
        for directory, (stats, _) in self._directories.items():
            inside = f"{directory}/" if directory else ""
            for one, content in zip(stats, read[directory], strict=True):
                uid, gid = owner or one[2:4]
                known = b"" if _is_dir(one) else content
                yield (inside + one[NAME])[start:], one[MODE], uid, gid, known

    @cached_property
    def extent(self) -> tuple[int, int]:
        """How many entries there are, and the bytes of all files."""
        return len(self), sum(self._sizes)

    @cached_property
    def _sizes(self) -> list[int]:
        return [
            one[SIZE] for stats, _ in self._directories.values() for one in stats if _is_file(one)
        ]

    @property
    def has_hard_links(self) -> bool:
        """Whether a file has several names, here or elsewhere."""
        found = self._directories.values()
        return any(one[LINKS] > 1 and not _is_dir(one) for stats, _ in found for one in stats)

    def contents(self) -> Contents:
        """What is known of the items."""
        places = ((self._root, self._noted),)
        return Contents(self.extent[1], self.unread(), max(self._sizes, default=0), places)

    def unread(self) -> int:
        """The bytes of files that `digest` would read."""
        with self._lock:
            if self._read or self._is_cached():
                return 0
            _, missing = self._known_contents()
            return sum(one[SIZE] for _, _, one in missing if _is_file(one))

    def note_contents(self) -> None:
        """Let those who read the items from now on note what `digest` would read the files for."""
        with self._lock:
            self._known_contents()
            self._noted = self._noted or ContentDigests(capabilities=self._capabilities)

    def _known_contents(self) -> tuple[dict[str, list[bytes | None]], list[_Missing]]:
        """The cached contents, and what is not among them."""
        if self._found is None:
            self._found, self._missing = self._look_up()
        return self._found, self._missing

    def _look_up(self) -> tuple[dict[str, list[bytes | None]], list[_Missing]]:
        found: dict[str, list[bytes | None]] = {}
        missing: list[_Missing] = []
        for directory, (stats, _) in self._directories.items():
            known: list[bytes | None] = [None] * len(stats)
            if self._cache is not None:
                known = self._cache.find(directory, stats)
            found[directory] = known
            if None in known:
                missing += [
                    (directory, index, stats[index])
                    for index, content in enumerate(known)
                    if content is None
                ]
        return found, missing

    def _contents(self) -> dict[str, list[bytes]]:
        found, missing = self._known_contents()
        batches = list(_batches(self._not_noted(found, missing)))
        read = ordered_map(self._read_batch, batches)
        for batch, contents in zip(batches, read, strict=True):
            for (directory, index, _), content in zip(batch, contents, strict=True):
                found[directory][index] = content
        return self._known(found, {directory for directory, _, _ in missing})

    def _not_noted(
        self, found: dict[str, list[bytes | None]], missing: list[_Missing]
    ) -> Iterator[_Missing]:
        """What is left to read after those who read the items have noted its content."""
        noted = self._noted.get if self._noted is not None else lambda path: None
        for one in missing:
            directory, index, (name, mode, *_) = one
            content = noted(f"{directory}/{name}" if directory else name)
            if content is None:
                if mode & 0o170000 != stat.S_IFDIR:
                    yield one
                    continue
                content = _NO_CONTENT
            found[directory][index] = content

    def _known(
        self, found: dict[str, list[bytes | None]], fresh: set[str]
    ) -> dict[str, list[bytes]]:
        """The complete contents; those of `fresh` directories are cached."""
        known = {
            directory: [content for content in contents if content is not None]
            for directory, contents in found.items()
        }
        if self._cache is not None:
            for directory in fresh:
                stats, complete = self._directories[directory]
                self._cache.put(
                    directory, stats, known[directory], since_ns=self._started_ns, complete=complete
                )
        return known

    def _read_batch(self, batch: list[_Missing]) -> list[bytes]:
        paths = [
            f"{directory}/{one[NAME]}" if directory else one[NAME] for directory, _, one in batch
        ]
        return [self._identify(path, one) for path, (_, _, one) in zip(paths, batch, strict=True)]

    def _identify(self, file_path: str, one: Stat) -> bytes:
        """An identifier of the content among files of its kind; never empty."""
        kind = one[MODE] & 0o170000
        try:
            if kind == stat.S_IFREG:
                return self._file_identity(file_path, one[SIZE])
            if kind == stat.S_IFLNK:
                return b">" + os.fsencode(os.readlink(file_path, dir_fd=self._root.fd))
            if kind in (stat.S_IFCHR, stat.S_IFBLK):
                status = os.stat(file_path, dir_fd=self._root.fd, follow_symlinks=False)
                return b"%d" % status.st_rdev
        except OSError as error:
            raise unreadable(error) from error
        return _NO_CONTENT

    def _file_identity(self, file_path: str, size: int) -> bytes:
        """See `ContentDigests`."""
        from blake3 import blake3

        fd = self._root.open(file_path)
        try:
            data = os.read(fd, min(size, _CHUNK) + 1)
            seen = blake3(data)
            while len(data) > size or len(data) > _CHUNK:
                data = os.read(fd, _CHUNK + 1)
                seen.update(data)
            return seen.digest() + capability(fd) if self._capabilities else seen.digest()
        finally:
            os.close(fd)


_Missing = tuple[str, int, Stat]


def _batches(missing: Iterable[_Missing]) -> Iterator[list[_Missing]]:
    """Batches, each large enough for a thread."""
    batch: list[_Missing] = []
    size = 0
    for job in missing:
        batch.append(job)
        size += job[2][SIZE]
        if len(batch) == _BATCH_FILES or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _row(one: Stat, content: bytes, owner: tuple[int, int] | None) -> bytes:
    name, mode, uid, gid = one[:4]
    if owner is not None:
        uid, gid = owner
    return b"%b\0%o %d %d %d\0%b" % (os.fsencode(name), mode, uid, gid, len(content), content)


def _entry(one: Stat, path: str) -> Entry:
    _, mode, uid, gid, size, mtime_ns, *_ = one
    kind = KINDS.get(mode & 0o170000, "file")
    size = size if kind == "file" else 0
    return entry_of((path, kind, mode & 0o7777, uid, gid, size, mtime_ns, "", 0, 0, ()))
