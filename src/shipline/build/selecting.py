"""The files that a COPY selects: its sources, resolved inside the root they come from."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from msgspec import Struct, field

from shipline import dockerfile as df
from shipline.build.graph import Material
from shipline.errors import SandboxError, UsageError, closest
from shipline.layer import Entry, Item, Prune, StatCache, Tree, resolve, scan
from shipline.sandbox import resolve_in_root
from shipline.tasks import Once

_LISTED = 8  # names in a hint


class Root(Struct, frozen=True):
    """A tree to copy from; `name` is what messages call it. `prune` excludes what `rules` say.

    `trees` holds scanned trees, so that the platforms of a build share one scan. Files of a context
    lose their capabilities.
    """

    path: Path
    name: str
    prune: Prune | None = None
    cache: StatCache | None = None
    trees: Once[Tree] = field(default_factory=Once)
    rules: df.IgnoreRules = field(default_factory=df.IgnoreRules)
    is_context: ClassVar[bool] = False


class ContextDirectory(Root, frozen=True):
    """A directory to build from; a cache key has its `stamp` besides its files.

    A `pin` names the files for good: a cache key may have it instead of them, and they are there
    after `open`. `owners` are those of its files, by path; without any all are root's. `materials`
    are the remote places that the files come from.
    """

    stamp: str = ""
    pin: str = ""
    open: Callable[[], object] = lambda: None
    owners: Mapping[str, tuple[int, int]] = {}
    remote: bool = False
    materials: tuple[Material, ...] = ()
    is_context = True


class Selected(Struct, frozen=True):
    """One source: `written` is its path in the Dockerfile, with wildcards replaced; `path` is that
    path with links followed.

    `pivot` is what `--parents` keeps of the path, `way` the directories on it, the source itself
    included if it is one.
    """

    root: Path
    written: str
    path: str
    is_directory: bool
    tree: Tree
    pivot: str
    way: tuple[Entry, ...]
    is_context: bool
    owners: Mapping[str, tuple[int, int]] = {}

    def items(self) -> Iterator[Item]:
        """The files."""
        inside = self.path if self.is_directory else posixpath.dirname(self.path)
        return iter(owned_items(self.tree.items(), self.owners, inside))

    @property
    def mtime_ns(self) -> int | None:
        """The time of a directory; None for the context itself, whose time does not count."""
        if not self.path and self.is_context:
            return None
        return os.stat(self.root / self.path).st_mtime_ns

    @property
    def name(self) -> str:
        return posixpath.basename(self.written) or posixpath.basename(self.path)


def owned_items(
    items: Iterable[Item], owners: Mapping[str, tuple[int, int]], inside: str
) -> Iterable[Item]:
    """Items of the directory `inside` with their `owners`, root without one; as they are if there
    are none at all.
    """
    if not owners:
        return items
    return (
        (owned_entry(entry, owners, _join(inside, entry.path)), content) for entry, content in items
    )


def owned_entry(entry: Entry, owners: Mapping[str, tuple[int, int]], path: str) -> Entry:
    """The entry at `path` with its owner."""
    if not owners:
        return entry
    uid, gid = owners.get(path, (0, 0))
    return entry._replace(uid=uid, gid=gid)


def select(
    root: Root, sources: tuple[str, ...], excludes: tuple[str, ...], *, parents: bool = False
) -> list[Selected]:
    """What `sources` name, in order; `parents` gives `**` and `/./` their meaning.

    Raises UsageError for a source that does not exist, and for a wildcard in a directory that does
    not exist.
    """
    found = []
    for source in sources:
        head, parts = _split(source, parents=parents)
        matches = [
            (base, path) for base in _bases(root, head) for path in _expand(root, base, parts)
        ]
        if not matches and not df.has_wildcards(source):
            raise _missing(root, source)
        for base, path in matches:
            pivot = path[len(base) :].lstrip("/")
            if not parents:
                found.append(_selected(root, path, pivot, excludes, None))
            elif not pivot or not _exclusions(excludes).ignores(pivot):
                found.append(_selected(root, path, pivot, excludes, base))
        if not matches:
            _require_directory(root, head, [] if parents else parts)
    return found


def _bases(root: Root, head: str) -> list[str]:
    """The directories that the part before `/./` names; it can have wildcards."""
    if not df.has_wildcards(head):
        return [head]
    parts = ["*" if part == "**" else part for part in head.split("/")]
    return list(_expand(root, "", parts))


def find_source(root: Root, source: str) -> Path:
    """Where `source` is, links followed inside the root. Raises UsageError where it is not."""
    path = _clean(source)
    if not _visible(root, path):
        raise _missing(root, source)
    return resolve_in_root(root.path, path)


def _missing(root: Root, source: str) -> UsageError:
    """The error for a source that does not exist: why, and what may have been meant."""
    path = _clean(source.replace("/./", "/"))
    for step in _steps(root, path) if _find(root, path) is not None else ():
        if (rule := root.rules.rule_of(step)) is not None:
            leads = "" if step == path else f" leads to {step!r}, which"
            return UsageError(
                f'"/{path}": not found: {source!r}{leads} is excluded from {root.name} '
                f"by {rule.place}: {rule}",
                code="copy-source-excluded",
                hint=f"remove the line, or add !{step} below it",
            )
    return UsageError(
        f'"/{path}": not found in {root.name}',
        code="copy-source-not-found",
        hint=_hint(root, source, path),
    )


def _hint(root: Root, source: str, path: str) -> str:
    if root.is_context and source.startswith("../"):
        return "nothing outside of the context can be copied: build in a parent directory"
    if root.is_context and source.startswith("/") and os.path.exists(source):
        return "paths are relative to the context, not to the root of this machine"
    directory, name, names = _last_known(root, path)
    if (link := root.path / directory / name).is_symlink():
        return f"{_join(directory, name)} is a link to {os.readlink(link)}, which does not exist"
    place = f"/{directory}" if not root.is_context else directory or "the context"
    if same := [one for one in names if one.lower() == name.lower()]:
        return f"{_join(directory, same[0])} exists: names are case-sensitive"
    if meant := closest(name, names):
        return f"did you mean {_join(directory, meant)}?"
    if not names:
        return f"{place} is empty"
    rest = ", .." if len(names) > _LISTED else ""
    return f"{place} has {', '.join(names[:_LISTED])}{rest}"


def _last_known(root: Root, path: str) -> tuple[str, str, list[str]]:
    """The deepest existing directory on the way to `path`, the name that it lacks, and the names
    that it has.
    """
    done = ""
    for name in path.split("/"):
        names = [one for one in _names(root, done) if _visible(root, _join(done, one))]
        if name not in names:
            break
        done = _join(done, name)
    return done, name, names


def _require_directory(root: Root, base: str, parts: list[str]) -> None:
    """Raise UsageError unless the directories before the first wildcard exist."""
    for part in parts:
        if df.has_wildcards(part):
            break
        base = _join(base, part)
    if df.has_wildcards(base):
        return
    place = _find(root, base)
    if place is None or not _visible(root, base):
        raise _missing(root, base)
    if root.is_context and not place.is_dir():
        raise UsageError(
            f"{base!r} in {root.name} is a file, not a directory", code="copy-source-not-found"
        )


def _selected(
    root: Root, written: str, pivot: str, excludes: tuple[str, ...], base: str | None
) -> Selected:
    """One source; `--exclude` is relative to `base`, or to the source itself for None."""
    place = resolve_in_root(root.path, written)
    path = os.path.relpath(place, root.path)
    path = "" if path == "." else path
    is_directory = place.is_dir()
    owners = root.owners if isinstance(root, ContextDirectory) else {}
    if base is None:
        base = path if is_directory else posixpath.dirname(path)
        way: tuple[Entry, ...] = ()
    else:
        leading = pivot if is_directory else posixpath.dirname(pivot)
        way = tuple(
            owned_entry(entry, owners, _join(base, entry.path))
            for entry in _way(root.path / base, leading)
        )
    tree = root.trees.get(
        (path, excludes, base),
        lambda: scan(
            root.path,
            path,
            prune=_pruned(root.prune, excludes, base),
            cache=root.cache,
            sockets=True,
            capabilities=not root.is_context,
        ),
    )
    return Selected(
        root.path, written, path, is_directory, tree, pivot, way, root.is_context, owners
    )


def _way(root: Path, path: str) -> Iterator[Entry]:
    """The directories from below `root` down to `path`."""
    done = ""
    for part in path.split("/") if path else ():
        done = _join(done, part)
        status = os.stat(resolve_in_root(root, done))
        mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
        yield Entry(done, "dir", mode, *owner, mtime_ns=status.st_mtime_ns)


def _split(source: str, *, parents: bool) -> tuple[str, list[str]]:
    """The directory that `--parents` starts from (empty for the root), and the path from there."""
    head, pivot, tail = source.partition("/./")
    if not parents or not pivot:
        head, tail = "", source
    base, pattern = _clean(head), _clean(tail)
    parts = pattern.split("/") if pattern else []
    return base, parts if parents else ["*" if part == "**" else part for part in parts]


def _clean(path: str) -> str:
    cleaned = posixpath.normpath("/" + path).lstrip("/")
    return "" if cleaned == "." else cleaned


def _expand(
    root: Root,
    done: str,
    parts: list[str],
    *,
    matched: bool = False,
    seen: set[tuple[str, int, bool]] | None = None,
) -> Iterator[str]:
    """The paths that `parts` lead to from `done`; `matched` is what a wildcard was there for.

    A link that was found by a wildcard is not entered; as the last part it has to lead somewhere.
    What `seen` has is not looked at again: several `**` lead to one place on many ways.
    """
    seen = set() if seen is None else seen
    if (step := (done, len(parts), matched)) in seen:
        return
    seen.add(step)
    if not parts:
        if _visible(root, done):
            yield done
        elif matched and (link := _matched_link(root, done)) and _kept(root, link):
            raise _missing(root, done)
        return
    if matched and _matched_link(root, done):
        return
    part, *rest = parts
    if part == "**":
        yield from _expand(root, done, rest, matched=matched, seen=seen)
        for name in _directories(root, done):
            yield from _expand(root, _join(done, name), parts, matched=True, seen=seen)
    elif not df.has_wildcards(part):
        yield from _expand(root, _join(done, part), rest, matched=matched, seen=seen)
    else:
        wildcard = df.Wildcard.parse(part)
        for name in _names(root, done):
            if wildcard.matches(name):
                yield from _expand(root, _join(done, name), rest, matched=True, seen=seen)


def _matched_link(root: Root, path: str) -> str:
    """Where the link is that the last part of `path` names; empty where it names none."""
    directory, name = posixpath.split(path)
    parent = _find(root, directory)
    if parent is None or not (parent / name).is_symlink():
        return ""
    return os.path.relpath(parent / name, root.path)


def _find(root: Root, path: str) -> Path | None:
    """The host path of `path`, links followed inside the root; None if it does not exist."""
    try:
        place = resolve_in_root(root.path, path)
    except SandboxError:
        return None
    return place if os.path.lexists(place) else None


def _visible(root: Root, path: str) -> bool:
    """Whether something is there, and no link on the way to it is left out, nor it itself."""
    if _find(root, path) is None:
        return False
    return root.prune is None or all(_kept(root, step) for step in _steps(root, path) if step)


def _kept(root: Root, path: str) -> bool:
    """Whether .dockerignore leaves in what is at `path`, where no link is on the way."""
    if root.prune is None:
        return True
    place = root.path / path
    verdict = root.prune(path, _is_plain_directory(place))
    if verdict is None:
        return len(scan(root.path, path, prune=root.prune)) > 0
    return not verdict


def _steps(root: Root, path: str) -> list[str]:
    """The links that are followed on the way to `path`, and the place that it is."""
    links: list[str] = []

    def lookup(step: str) -> Entry | None:
        link = link_at(root.path, step)
        links.extend([step] if link else [])
        return link

    end = resolve(path, lookup)
    return [*links, end]


def link_at(directory: Path, path: str) -> Entry | None:
    """The link at `path`, on the way to which there is none; None for everything else."""
    place = directory / path
    return Entry(path, "symlink", link=os.readlink(place)) if place.is_symlink() else None


def _names(root: Root, path: str) -> list[str]:
    place = _find(root, path)
    return sorted(os.listdir(place)) if place is not None and place.is_dir() else []


def _directories(root: Root, path: str) -> list[str]:
    names = _names(root, path)
    place = _find(root, path)
    return [name for name in names if place and _is_plain_directory(place / name)]


def _is_plain_directory(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink()


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _pruned(prune: Prune | None, excludes: tuple[str, ...], base: str) -> Prune | None:
    """The rules of the context and of `--exclude`, whose patterns are relative to `base`."""
    if (excluded := _exclusions(excludes).prune()) is None:
        return prune

    def both(path: str, is_directory: bool) -> bool | None:
        verdicts = (
            excluded(path[len(base) :].lstrip("/"), is_directory),
            prune is not None and prune(path, is_directory),
        )
        return True in verdicts or (None if None in verdicts else False)

    return both


def _exclusions(patterns: Iterable[str]) -> df.IgnoreRules:
    """The rules of `--exclude`: a pattern with a leading slash matches nothing, as in BuildKit."""
    return df.IgnoreRules.of(one for one in patterns if not one.removeprefix("!").startswith("/"))
