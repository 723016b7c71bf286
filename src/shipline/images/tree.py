"""An image as a tree: platforms, layers, and what refers to them, with sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from msgspec import Struct

from shipline.content import fetch_document
from shipline.errors import NotFound
from shipline.images.places import OpenImage
from shipline.oci import PREDICATE_TYPE, REFERENCE_DIGEST, Descriptor, Index, Manifest, media
from shipline.supply import PREDICATE_ANNOTATION, StatementSource, attached_tags, short_name
from shipline.units import counted, shown_size

_DEPTH = 4  # of statements about statements


class TreeNode(Struct, frozen=True):
    """A line, and what is below it."""

    text: str
    below: Sequence[TreeNode] = ()

    def lines(self) -> Iterator[str]:
        """The tree, drawn as by tree(1)."""
        yield self.text
        for number, one in enumerate(self.below, 1):
            last = number == len(self.below)
            first, *rest = one.lines()
            yield ("\u2514\u2500 " if last else "\u251c\u2500 ") + first
            yield from (("   " if last else "\u2502  ") + line for line in rest)


def image_tree(image: OpenImage, name: str) -> TreeNode:
    """All that belongs to an image, which is called `name`."""
    document = image.document()
    below: list[TreeNode] = []
    size = image.root.size
    if isinstance(document, Index):
        entries = _images(document)
        for entry in entries:
            node, bytes_ = _entry(image.source, document, entry)
            below.append(node)
            size += bytes_
        what = f"index of {counted(len(entries), 'image')}"
    else:
        below += _layers(document)
        size += _size(document)
        what = _kind(document)
    below += _attached(image.source, image.root, _DEPTH)
    return TreeNode(f"{name}  {image.root.digest}  {what}, {shown_size(size)}", below)


def _entry(source: StatementSource, index: Index, entry: Descriptor) -> tuple[TreeNode, int]:
    name = str(entry.platform or entry.artifact_type or entry.media_type)
    try:
        parsed = fetch_document(source, entry)
    except NotFound:
        return TreeNode(f"{name}  {entry.digest}  not here"), 0
    if isinstance(parsed, Index):
        nodes = [_entry(source, parsed, one) for one in _images(parsed)]
        size = entry.size + sum(bytes_ for _, bytes_ in nodes)
        inner = [*(node for node, _ in nodes), *_attached(source, entry, _DEPTH)]
        return TreeNode(f"{name}  {entry.digest}  index", inner), size
    below = [*_layers(parsed)]
    if (about := index.attestation_of(entry)) is not None:
        with suppress(NotFound):
            statements = fetch_document(source, about)
            if isinstance(statements, Manifest):
                found = (_statement(layer) for layer in statements.layers)
                below.append(TreeNode(f"attestations  {about.digest}", [*found]))
    below += _attached(source, entry, _DEPTH)
    size = entry.size + _size(parsed)
    return TreeNode(f"{name}  {entry.digest}  {_kind(parsed)}, {shown_size(size)}", below), size


def _images(index: Index) -> list[Descriptor]:
    """The entries without BuildKit's attestations, which are shown below what they are about."""
    return [one for one in index.manifests if REFERENCE_DIGEST not in one.annotations]


def _size(manifest: Manifest) -> int:
    return sum(one.size for one in (manifest.config, *manifest.layers))


def _kind(manifest: Manifest) -> str:
    layers = counted(len(manifest.layers), "layer")
    return f"{manifest.artifact_type}, {layers}" if manifest.artifact_type else layers


def _layers(manifest: Manifest) -> Iterator[TreeNode]:
    for one in manifest.layers:
        kind = media.compression(one.media_type) or one.media_type
        yield TreeNode(f"{one.digest}  {kind}, {shown_size(one.size)}")


def _statement(layer: Descriptor) -> TreeNode:
    kind = layer.annotations.get(PREDICATE_TYPE) or layer.media_type
    return TreeNode(f"{short_name(kind)}  {layer.digest}  {shown_size(layer.size)}")


def _attached(source: StatementSource, subject: Descriptor, depth: int) -> Iterator[TreeNode]:
    """What refers to `subject`, and what cosign keeps under tags beside it."""
    for one in {one.digest: one for one in source.referrers(subject)}.values() if depth else ():
        if one.digest == subject.digest:
            continue
        kind = one.annotations.get(PREDICATE_ANNOTATION) or one.artifact_type
        below = [*_attached(source, one.plain, depth - 1)]
        yield TreeNode(f"referrer {kind}  {one.digest}  {shown_size(one.size)}", below)
    for tag, name in attached_tags(subject).items():
        with suppress(NotFound):
            found = source.resolve(tag)
            parsed = fetch_document(source, found)
            count = len(parsed.layers) if isinstance(parsed, Manifest) else len(parsed.manifests)
            yield TreeNode(f"{counted(count, name)}  {found.digest}  tag {tag}")
