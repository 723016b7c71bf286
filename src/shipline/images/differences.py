"""What two images differ in: layers, files, configuration, and the packages of their SBOMs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from shipline.content import CHUNK, Reader, fetch_all, fetch_image
from shipline.errors import ContentError, NotFound
from shipline.images.places import OpenImage
from shipline.layer import Entry, Item, LayeredToc, Toc, TocBuilder, decompress, read_tar
from shipline.oci import (
    CONFIG_LIMIT,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Platform,
    from_bytes,
    media,
)
from shipline.supply import Statement, StatementSource, stored_statements

_SPDX = "https://spdx.dev/Document"
Changes = Mapping[str, tuple[Any, Any]]
"""What each image has under a name; None for nothing."""


class ImageDifference(Struct, frozen=True):
    """Files and packages have one line of text for each image. `bytes` are those of the layers,
    `layers` the digests that only one of the images has. `packages` is None unless both images
    have a list of packages, `files` unless they were compared.
    """

    digests: tuple[str, str]
    bytes: tuple[int, int]
    layers: tuple[tuple[str, ...], tuple[str, ...]]
    files: Changes | None
    config: Changes
    packages: Changes | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON: each pair a list."""
        fields = ("digests", "bytes", "layers", "files", "config", "packages")
        return {name: getattr(self, name) for name in fields}

    @property
    def is_empty(self) -> bool:
        return not (any(self.layers) or self.files or self.config or self.packages)


class _Side(Struct, frozen=True):
    """The image of one platform, in the index that says more about it, if there is one."""

    source: StatementSource
    target: Descriptor
    manifest: Manifest
    index: Index | None


def difference(
    first: OpenImage, second: OpenImage, platform: Platform, *, files: bool = True
) -> ImageDifference:
    """Compare the images for a platform. Layers are only read for `files`, those that both have
    once. Raises ContentError for what is not an image, or has none for the platform.
    """
    sides = _side(first, platform), _side(second, platform)
    digests = [{str(one.digest): None for one in side.manifest.layers} for side in sides]
    read: dict[Digest, tuple[Toc, dict[str, str]]] = {}
    paths = _changes(*(_files(side, read) for side in sides)) if files else None
    packages = [_packages(side) for side in sides]
    return ImageDifference(
        (str(sides[0].target.digest), str(sides[1].target.digest)),
        (_size(sides[0].manifest), _size(sides[1].manifest)),
        (
            tuple(one for one in digests[0] if one not in digests[1]),
            tuple(one for one in digests[1] if one not in digests[0]),
        ),
        paths,
        _changes(_settings(sides[0]), _settings(sides[1])),
        None if None in packages else _changes(packages[0] or {}, packages[1] or {}),
    )


def _side(image: OpenImage, platform: Platform) -> _Side:
    target, document = image.root, image.document()
    index = document if isinstance(document, Index) else None
    if isinstance(document, Index):
        target = image.select([platform])
        document = fetch_image(image.source, target)
    return _Side(image.source, target, document, index)


def _size(manifest: Manifest) -> int:
    return sum(one.size for one in manifest.layers)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    names = sorted({*before, *after})
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _files(side: _Side, read: dict[Digest, tuple[Toc, dict[str, str]]]) -> dict[str, str]:
    """What is at each path: kind, mode, owner, size, and digest or target. Times do not count."""
    for layer in side.manifest.layers:
        if layer.digest not in read:
            read[layer.digest] = _contents(side.source, layer)
    stack = [read[layer.digest] for layer in side.manifest.layers]
    tocs = LayeredToc([toc for toc, _ in stack])
    found = {}
    for entry in tocs.walk():
        number = tocs.layer_of(entry.path)
        content = "" if number is None else stack[number][1].get(entry.path, "")
        found[entry.path] = _described(entry, content)
    return found


def _described(entry: Entry, content: str) -> str:
    words = [entry.kind, f"{entry.mode:04o}", f"{entry.uid}:{entry.gid}"]
    if entry.kind == "file":
        words += [f"{entry.size} bytes", content]
    if entry.kind in ("char", "block"):
        words.append(f"{entry.major},{entry.minor}")
    words += [f"-> {entry.link}"] if entry.kind == "symlink" else []
    words += [f"{name}={value.hex()}" for name, value in entry.xattrs]
    return " ".join(filter(None, words))


def _contents(source: StatementSource, layer: Descriptor) -> tuple[Toc, dict[str, str]]:
    """The table of a layer, and the digests of its files."""
    compression = media.compression(layer.media_type)
    if compression is None:
        raise ContentError(
            f"{layer.digest} is not a layer of an image: {layer.media_type}",
            code="layer-unsupported",
        )
    digests: dict[str, str] = {}

    def hashed(items: Iterable[tuple[Entry, Reader | None]]) -> Iterator[Item]:
        for entry, content in items:
            yield entry, content
            if entry.kind == "hardlink":
                digests[entry.path] = digests.get(entry.link, "")
            elif content is not None:
                seen = hashlib.sha256()
                while data := content.read(CHUNK):
                    seen.update(data)
                digests[entry.path] = f"sha256:{seen.hexdigest()}"

    builder = TocBuilder()
    with source.fetch(layer) as reader:
        for _ in builder.through(hashed(read_tar(decompress(reader, compression)))):
            pass
    return builder.toc(), digests


def _settings(side: _Side) -> dict[str, Any]:
    """The configuration by key, `config.` in front of what runs it; environment and labels one by
    one. What the layers are and when they were made is left out.
    """
    document = from_bytes(fetch_all(side.source, side.manifest.config, CONFIG_LIMIT))
    run = document.pop("config", None) or {}
    found = {key: one for key, one in document.items() if key not in ("rootfs", "history")}
    for key, value in run.items() if isinstance(run, dict) else ():
        if key == "Env" and isinstance(value, list):
            pairs = (str(one).partition("=") for one in value)
            found |= {f"config.Env.{name}": text for name, _, text in pairs}
        elif isinstance(value, dict):
            found |= {f"config.{key}.{name}": one for name, one in value.items()}
        else:
            found[f"config.{key}"] = value
    return found


def _packages(side: _Side) -> dict[str, str] | None:
    """The versions of each package in the SBOM that the build made, None without one."""
    if side.index is None:
        return None
    try:
        statements = list(stored_statements(side.source, side.index, side.target))
    except NotFound:
        return None
    documents = [Statement.parse(raw).predicate for kind, raw in statements if kind == _SPDX]
    if not documents:
        return None
    found: dict[str, set[str]] = {}
    for document in documents:
        listed = document.get("packages") if isinstance(document, Mapping) else None
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, Mapping):
                found.setdefault(str(one.get("name")), set()).add(str(one.get("versionInfo") or ""))
    return {name: ", ".join(sorted(filter(None, versions))) for name, versions in found.items()}


def describe_changes(changes: Changes) -> Iterator[str]:
    """A line for each change: `+`, `-` or `~`, the name, and what it was and is."""
    for name, (before, after) in changes.items():
        if before is None:
            yield f"+ {name}  {_text(after)}"
        elif after is None:
            yield f"- {name}  {_text(before)}"
        else:
            yield f"~ {name}  {_text(before)} => {_text(after)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
