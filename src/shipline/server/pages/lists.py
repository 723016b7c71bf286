"""The lists of the page: repositories and tags, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from shipline.oci import Index, Manifest, parse_manifest
from shipline.server.entries import Usage
from shipline.server.identity import Identity
from shipline.server.manifests import Manifests, Tagged
from shipline.server.node import Node
from shipline.server.pages.views import CHILDREN, attached_to, config_of, is_image, size_of

PAGE = 100  # rows
_LARGE = 64 << 10  # bytes of a manifest that a list does not read
_SCANNED = 20_000  # names looked at for one page
N = TypeVar("N")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Up to PAGE rows. `more` is the name to go on behind, empty at the end; `stopped` says that
    the search looked at many names and has not seen all of them.
    """

    rows: tuple[R, ...]
    more: str = ""
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """A repository with what it holds."""

    name: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class TagRow:
    """A tag and what is behind it; `size` in bytes, of all platforms together, None where that
    would take long to find out.
    """

    tagged: Tagged
    media_type: str
    platforms: tuple[str, ...]
    size: int | None
    signatures: int


def repositories(node: Node, identity: Identity, after: str, search: str) -> Page[RepositoryRow]:
    """Repositories that `identity` may pull, by name, those after `after`."""
    return _page(
        _names(node, after),
        str,
        lambda name: search in name and identity.may("pull", name),
        lambda name: RepositoryRow(name, node.storage.usage(name)),
    )


def tags(node: Node, name: str, after: str, search: str) -> Page[TagRow]:
    """Tags after `after`, without those that only hold signatures and attestations."""
    return _page(
        _tagged(node.manifests, name, after),
        lambda tagged: tagged.tag,
        lambda tagged: search in tagged.tag.lower() and not is_attachment(tagged.tag),
        lambda tagged: _tag_row(node, name, tagged),
    )


def is_attachment(tag: str) -> bool:
    """Whether a tag is cosign's for signatures and the like, or the referrers tag."""
    head, dash, rest = tag.partition("-")
    hexadecimal = rest.partition(".")[0]
    return bool(dash) and head in ("sha256", "sha512") and len(hexadecimal) >= 64


def _page(
    things: Iterable[N],
    name: Callable[[N], str],
    wanted: Callable[[N], bool],
    row: Callable[[N], R],
) -> Page[R]:
    rows: list[R] = []
    last = ""
    for seen, thing in enumerate(things):
        if seen == _SCANNED:
            return Page(tuple(rows), last, stopped=True)
        if wanted(thing):
            if len(rows) == PAGE:
                return Page(tuple(rows), last)
            rows.append(row(thing))
        last = name(thing)
    return Page(tuple(rows))


def _names(node: Node, after: str) -> Iterator[str]:
    while page := node.storage.repositories(after, 1000):
        yield from page
        after = page[-1]


def _tagged(manifests: Manifests, name: str, after: str) -> Iterator[Tagged]:
    while page := manifests.tagged(name, after, 1000):
        yield from page
        after = page[-1].tag


def _tag_row(node: Node, name: str, tagged: Tagged) -> TagRow:
    stored = node.manifests.get(name, tagged.digest)
    if stored is None:  # deleted between the two reads
        return TagRow(tagged, "", (), 0, 0)
    if len(stored.raw) > _LARGE:
        return TagRow(tagged, stored.media_type, (), None, 0)
    document = parse_manifest(stored.raw, stored.media_type)
    attached, _ = attached_to(node, name, stored.digest)
    return TagRow(
        tagged,
        document.artifact_type or stored.media_type,
        _platforms(node, name, document),
        size_of(node, name, document),
        sum(one.what == "signature" for one in attached),
    )


def _platforms(node: Node, name: str, document: Manifest | Index) -> tuple[str, ...]:
    if isinstance(document, Index):
        images = filter(is_image, document.manifests)
        return tuple(str(one.platform) for one in islice(images, CHILDREN))
    config = config_of(node, name, document)
    return (str(config.platform),) if config is not None else ()
