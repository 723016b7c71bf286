"""The lists of a node's pages: repositories, tags, manifests. Each page reads what it shows; a
search looks at so many names, and says where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from shipline.server.admission.protocol import PullVerdict
from shipline.server.entries import Usage, subject_of_tag
from shipline.server.http import Principal
from shipline.server.manifests import ListedFacts, TaggedDigest
from shipline.server.node import RegistryNode

PAGE = 100  # rows
MAX_EXAMINED = 5000  # names examined for one page
_UNDATED = 1000  # tags of a repository that a list of repositories puts in order
N = TypeVar("N")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RowPage(Generic[R]):
    """Up to PAGE rows. `more` is the name after which the next page starts, empty at the end;
    `stopped`: the search gave up before examining every name.
    """

    rows: tuple[R, ...]
    more: str = ""
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """A repository: its newest tag, None if it has none. `project` is the one that it is in, on a
    node without projects the first part of its name; `public` is None there.
    """

    name: str
    usage: Usage
    newest: TaggedDigest | None
    description: str
    project: str
    public: bool | None


@dataclass(frozen=True, slots=True)
class TagRow:
    """A tag with its image. `media_type` is empty if the manifest is missing; `verdict` is None if
    no rule is about it.
    """

    tagged: TaggedDigest
    media_type: str
    facts: ListedFacts
    verdict: PullVerdict | None


def repositories(
    node: RegistryNode, principal: Principal, after: str, search: str
) -> RowPage[RepositoryRow]:
    """Repositories after `after` that `principal` may pull, by name."""
    return _page(
        ((name, name) for name in _names(node, after)),
        lambda name: search in name and principal.may("pull", name),
        lambda name: _repository(node, name),
    )


def tags(
    node: RegistryNode, name: str, after: str, search: str, order: str = ""
) -> RowPage[TagRow]:
    """Tags after `after`, without those that only hold signatures and attestations: by `name`, or
    the newest first, before all others `latest`.
    """
    manifests = node.manifests
    latest = manifests.tag(name, _LATEST) if order != "name" and not search else None
    found = _by_name(node, name, after) if order == "name" else _newest(node, name, after)
    if latest is not None:
        found = ((cursor, tagged) for cursor, tagged in found if tagged.tag != _LATEST)
        if not after:
            found = _after_first(("", latest), found)
    return _page(
        found,
        lambda tagged: search in tagged.tag.lower() and subject_of_tag(tagged.tag) is None,
        lambda tagged: _tag(node, name, tagged),
    )


_LATEST = "latest"


def _after_first(first: N, others: Iterable[N]) -> Iterator[N]:
    yield first
    yield from others


def _repository(node: RegistryNode, name: str) -> RepositoryRow:
    usage = node.storage.usage(name)
    newest = None
    if usage.tags <= _UNDATED or node.manifests.is_dated(name):
        newest = next((tagged for _, tagged in node.manifests.newest(name, limit=1)), None)
    facts = None if newest is None else node.manifests.facts(name, newest.digest)
    description = "" if facts is None else facts.description
    if node.accounts is None:
        namespace = name.partition("/")[0] if "/" in name else ""
        return RepositoryRow(name, usage, newest, description, namespace, None)
    project = node.accounts.store.view().project(name)
    place, public = (project.name, project.public) if project else ("", False)
    return RepositoryRow(name, usage, newest, description, place, public)


def _tag(node: RegistryNode, name: str, tagged: TaggedDigest) -> TagRow:
    stored = node.manifests.get(name, tagged.digest)
    return TagRow(
        tagged,
        "" if stored is None else stored.media_type,
        node.manifests.facts(name, tagged.digest),
        None if stored is None else node.admission.explain(name, stored),
    )


def _names(node: RegistryNode, after: str) -> Iterator[str]:
    while page := node.storage.repositories(after, PAGE + 1):
        yield from page
        after = page[-1]


def _by_name(node: RegistryNode, name: str, after: str) -> Iterator[tuple[str, TaggedDigest]]:
    while page := node.manifests.tagged(name, after, PAGE + 1):
        yield from ((tagged.tag, tagged) for tagged in page)
        after = page[-1].tag


def _newest(node: RegistryNode, name: str, after: str) -> Iterator[tuple[str, TaggedDigest]]:
    while page := node.manifests.newest(name, after, PAGE + 1):
        yield from page
        after = page[-1][0]


def _page(
    items: Iterable[tuple[str, N]], accept: Callable[[N], bool], row: Callable[[N], R]
) -> RowPage[R]:
    """`items` have the cursor to go on after each."""
    rows: list[R] = []
    last = ""
    for seen, (cursor, item) in enumerate(items):
        if seen == MAX_EXAMINED:
            return RowPage(tuple(rows), last, stopped=True)
        if accept(item):
            if len(rows) == PAGE:
                return RowPage(tuple(rows), last)
            rows.append(row(item))
        last = cursor
    return RowPage(tuple(rows))
