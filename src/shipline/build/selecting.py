"""Which files a COPY means: sources as written, resolved inside the root they come from."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from shipline import dockerfile as df
from shipline.errors import SandboxError, UsageError
from shipline.layer import Item, StatCache, Tree, scan
from shipline.sandbox import resolve_in_root
from shipline.tasks import Once

_LISTED = 8  # names that a hint lists
Prune = Callable[[str, bool], bool]


@dataclass(frozen=True, slots=True)
class Root:
    """A tree to copy from; `name` is how messages call it."""

    path: Path
    name: str
    prune: Prune | None = None
    cache: StatCache | None = None
    is_context: bool = False
    trees: Once[Tree] = field(default_factory=Once)
    rules: df.IgnoreRules = field(default_factory=df.IgnoreRules)


@dataclass(frozen=True, slots=True)
class Selected:
    """One source: `written` is its path as the Dockerfile has it (wildcards replaced), `path`
    the place it was found at, `pivot` what `--parents` keeps of it.
    """

    root: Path
    written: str
    path: str
    is_directory: bool
    tree: Tree
    pivot: str
    is_context: bool

    def items(self) -> Iterator[Item]:
        """The files; those of a context bring no capabilities."""
        if not self.is_context:
            return self.tree.items()
        return (
            (entry._replace(xattrs=()) if entry.xattrs else entry, content)
            for entry, content in self.tree.items()
        )

    @property
    def mtime_ns(self) -> int | None:
        """The time of a directory; that of a context as a whole does not count."""
        if not self.path and self.is_context:
            return None
        return os.stat(self.root / self.path).st_mtime_ns

    @property
    def name(self) -> str:
        return posixpath.basename(self.written) or posixpath.basename(self.path)


def select(root: Root, sources: tuple[str, ...], excludes: tuple[str, ...]) -> list[Selected]:
    """What `sources` name, in order. Raises UsageError for one that names nothing."""
    found = []
    for source in sources:
        matches = list(_matches(root, source))
        if not matches and not df.has_wildcards(source):
            raise _missing(root, source)
        found += [_selected(root, written, pivot, excludes) for written, pivot in matches]
    return found


def _missing(root: Root, source: str) -> UsageError:
    """The error for a source that names nothing: why, and what was meant."""
    path = _clean(source.replace("/./", "/"))
    rule = root.rules.rule_of(path)
    if rule is not None and _find(root, path) is not None:
        return UsageError(
            f"{source!r} is excluded from {root.name} by {rule.place}: {rule}",
            hint=f"take the line out, or write !{path} below it",
        )
    return UsageError(f"{source!r} was not found in {root.name}", hint=_hint(root, source, path))


def _hint(root: Root, source: str, path: str) -> str:
    if root.is_context and source.startswith("../"):
        return "nothing outside of the context can be copied: build in a directory above it"
    if root.is_context and source.startswith("/") and os.path.exists(source):
        return "paths are relative to the context, and not those of this machine"
    directory, name, names = _last_known(root, path)
    place = f"/{directory}" if not root.is_context else directory or "it"
    if same := [one for one in names if one.lower() == name.lower()]:
        return f"{_join(directory, same[0])} is there: letter case counts"
    if meant := get_close_matches(name, names, 1):
        return f"did you mean {_join(directory, meant[0])}?"
    if not names:
        return f"{place} is empty"
    rest = ", .." if len(names) > _LISTED else ""
    return f"{place} has {', '.join(names[:_LISTED])}{rest}"


def _last_known(root: Root, path: str) -> tuple[str, str, list[str]]:
    """The deepest directory on the way to `path` that is there, the name that it lacks, and the
    names that it has.
    """
    done = ""
    for name in path.split("/"):
        names = [one for one in _names(root, done) if _visible(root, _join(done, one))]
        if name not in names:
            break
        done = _join(done, name)
    return done, name, names


def _selected(root: Root, written: str, pivot: str, excludes: tuple[str, ...]) -> Selected:
    place = resolve_in_root(root.path, written)
    path = os.path.relpath(place, root.path)
    path = "" if path == "." else path
    is_directory = place.is_dir()
    base = path if is_directory else posixpath.dirname(path)
    tree = root.trees.get(
        (path, excludes),
        lambda: scan(root.path, path, prune=_pruned(root.prune, excludes, base), cache=root.cache),
    )
    return Selected(root.path, written, path, is_directory, tree, pivot, root.is_context)


def _matches(root: Root, source: str) -> Iterator[tuple[str, str]]:
    """Paths that exist, each with what stands behind the pivot `/./` of `--parents`."""
    head, pivot, tail = source.partition("/./")
    prefix = _clean(head) if pivot else ""
    pattern = f"{prefix}/{_clean(tail)}" if prefix else _clean(tail if pivot else source)
    for path in _expand(root, "", pattern.split("/") if pattern else []):
        yield path, path[len(prefix) :].lstrip("/")


def _clean(path: str) -> str:
    cleaned = posixpath.normpath("/" + path).lstrip("/")
    return "" if cleaned == "." else cleaned


def _expand(root: Root, done: str, parts: list[str]) -> Iterator[str]:
    if not parts:
        if _visible(root, done):
            yield done
        return
    part, *rest = parts
    if part == "**":
        yield from _expand(root, done, rest)
        for name in _directories(root, done):
            yield from _expand(root, _join(done, name), parts)
    elif not df.has_wildcards(part):
        yield from _expand(root, _join(done, part), rest)
    else:
        wildcard = df.Wildcard.parse(part)
        for name in _names(root, done):
            if wildcard.matches(name):
                yield from _expand(root, _join(done, name), rest)


def _find(root: Root, path: str) -> Path | None:
    """Where `path` is, links followed inside the root; None for nothing."""
    try:
        place = resolve_in_root(root.path, path)
    except SandboxError:
        return None
    return place if os.path.lexists(place) else None


def _visible(root: Root, path: str) -> bool:
    place = _find(root, path)
    if place is None:
        return False
    return root.prune is None or not path or not root.prune(path, place.is_dir())


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
    """The context's rules, and `--exclude`, whose patterns are relative to the source."""
    if not excludes:
        return prune
    rules = df.IgnoreRules.of(excludes)

    def both(path: str, is_directory: bool) -> bool:
        if prune is not None and prune(path, is_directory):
            return True
        return rules.ignores(path[len(base) :].lstrip("/"))

    return both


def included(rules: df.IgnoreRules) -> Prune | None:
    """The function that leaves out what .dockerignore says; None where it says nothing."""
    if not rules:
        return None

    seen: dict[str, df.Match] = {"": df.UNMATCHED}

    def prune(path: str, is_directory: bool) -> bool:
        match = rules.match(path, seen.get(posixpath.dirname(path)))
        if is_directory:
            seen[path] = match
        return match.ignored and not (is_directory and rules.may_reinclude(path, match))

    return prune
