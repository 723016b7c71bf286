"""What differs between two images, in classes of importance.

tree      a path, its owner, mode, time, content, target, attributes
links     which names are one file
config    the configuration that a container starts with
layers    a file or a whiteout that one image's layer has and the other's has not
history   who made which layer
parents   a directory that a layer repeats without need; the tree is the same
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from corpus.image import RECENT_S, Image, Node

TREE, CONFIG, LAYERS, HISTORY = "tree", "config", "layers", "history"
LINKS = "links"
PARENTS = "parents"
GRAVE, SLIGHT = (TREE, LINKS, CONFIG, LAYERS, HISTORY), (PARENTS,)
_CONFIG_TOP = ("architecture", "os", "variant", "author", "os.version", "os.features")
_CONFIG_IGNORED = {"Image", "Hostname", "Domainname"}  # empty in BuildKit's images
_HISTORY_KEYS = ("created_by", "comment", "empty_layer", "author")


@dataclass(frozen=True, slots=True)
class Difference:
    """One place in which two images are not the same. `kind` is its class."""

    kind: str
    platform: str
    place: str
    field: str
    want: object
    got: object

    def __str__(self) -> str:
        where = f"{self.platform} {self.kind} {self.place!r} {self.field}".rstrip()
        return f"{where}: expected {self.want!r}, got {self.got!r}"


def compare(want: Mapping[str, Image], got: Mapping[str, Image]) -> list[Difference]:
    """Everything in which the images of `got` are not those of `want`."""
    differences = []
    for platform in sorted(want.keys() | got.keys()):
        if platform not in want or platform not in got:
            present = (platform in want, platform in got)
            differences.append(Difference(CONFIG, platform, "", "platform", *present))
            continue
        for kind, place, name, left, right in _compare_image(want[platform], got[platform]):
            differences.append(Difference(kind, platform, place, name, left, right))
    return differences


def normal_form(images: Mapping[str, Image], skip: tuple[str, ...]) -> dict[str, object]:
    """What `compare` compares, apart from `PARENTS` and the classes in `skip`: where it is equal
    for two builds, no difference is found. It is for JSON.
    """
    return {
        platform: {kind: part for kind, part in _parts(image) if kind not in skip}
        for platform, image in images.items()
    }


def _parts(image: Image) -> Iterator[tuple[str, object]]:
    names = [item.name for item in fields(Node) if item.compare]
    files = image.files.items()
    yield TREE, {path: [getattr(node, name) for name in names] for path, node in files}
    yield LINKS, sorted(_hard_links(image.files))
    top = {key: image.config.get(key) for key in _CONFIG_TOP}
    inner = image.config.get("config") or {}
    inner = {k: v for k, v in inner.items() if k not in _CONFIG_IGNORED and v is not None}
    created = _when(image.config) if image.layers else None
    yield CONFIG, [top, inner, created]
    yield LAYERS, [sorted({n for n in names if n[-1:] != "/"}) for names in image.layers]
    entries = image.config.get("history") or []
    yield HISTORY, [[*(one.get(k) for k in _HISTORY_KEYS), _when(one)] for one in entries]


_Item = tuple[str, str, str, object, object]


def _compare_image(want: Image, got: Image) -> Iterator[_Item]:
    yield from compare_trees(want.files, got.files)
    yield from _compare_config(want.config, got.config)
    yield from _compare_layers(want, got)
    yield from _compare_history(want.config, got.config)


def compare_trees(want: Mapping[str, Node], got: Mapping[str, Node]) -> Iterator[_Item]:
    for path in sorted(want.keys() | got.keys()):
        left, right = want.get(path), got.get(path)
        if left is None or right is None:
            yield TREE, path, "", _summary(left), _summary(right)
            continue
        for name in (item.name for item in fields(Node) if item.compare):
            if getattr(left, name) != getattr(right, name):
                yield TREE, path, name, _shown(left, name), _shown(right, name)
    left_groups, right_groups = _hard_links(want), _hard_links(got)
    for group in sorted(left_groups ^ right_groups):
        names = " ".join(group[:3]) + (f" and {len(group) - 3} more" if len(group) > 3 else "")
        yield LINKS, names, "hard links", group in left_groups, group in right_groups


def _hard_links(files: Mapping[str, Node]) -> set[tuple[str, ...]]:
    return {node.linked for node in files.values() if node.linked}


def _shown(node: Node, name: str) -> object:
    """A field as a person wants to see it: modes in octal, for a digest the content."""
    if name == "mode":
        return oct(node.mode)
    return node.head if name == "sha256" else getattr(node, name)


def _summary(node: Node | None) -> str:
    if node is None:
        return "nothing"
    return f"{node.kind} {node.mode:o} {node.uid}:{node.gid}" + f" {node.link}".rstrip()


def _compare_config(want: Mapping[str, Any], got: Mapping[str, Any]) -> Iterator[_Item]:
    for key in _CONFIG_TOP:
        if want.get(key) != got.get(key):
            yield CONFIG, key, "", want.get(key), got.get(key)
    if _when(want) not in (None, _when(got)):  # BuildKit leaves an image without layers undated
        yield CONFIG, "created", "", want.get("created"), got.get("created")
    left, right = want.get("config") or {}, got.get("config") or {}
    for key in sorted((left.keys() | right.keys()) - _CONFIG_IGNORED):
        if left.get(key) != right.get(key):
            yield CONFIG, f"config.{key}", "", left.get(key), right.get(key)


def _texts(history: list[dict[str, Any]]) -> list[str]:
    return [entry.get("created_by", "") for entry in history]


def _compare_layers(want: Image, got: Image) -> Iterator[_Item]:
    if len(want.layers) != len(got.layers):
        yield LAYERS, "", "count", len(want.layers), len(got.layers)
        return
    for number, (left, right) in enumerate(zip(want.layers, got.layers, strict=True)):
        for name in sorted(set(left) ^ set(right)):
            kind = PARENTS if name.endswith("/") else LAYERS
            yield kind, f"layer {number}", name, name in left, name in right


def _compare_history(want: Mapping[str, Any], got: Mapping[str, Any]) -> Iterator[_Item]:
    left, right = want.get("history") or [], got.get("history") or []
    if len(left) != len(right):
        yield HISTORY, "", "entries", _texts(left), _texts(right)
        return
    for number, (a, b) in enumerate(zip(left, right, strict=True)):
        for key in _HISTORY_KEYS:
            if a.get(key) != b.get(key):
                yield HISTORY, f"entry {number}", key, a.get(key), b.get(key)
        if _when(a) != _when(b):
            yield HISTORY, f"entry {number}", "created", a.get("created"), b.get("created")


def _when(dated: Mapping[str, Any]) -> str | None:
    """`created`, where the build's own time is just "now"."""
    if not dated.get("created"):
        return None
    text = str(dated["created"])
    seconds = datetime.fromisoformat(text[:19] + "+00:00").timestamp()
    return "now" if abs(time.time() - seconds) < RECENT_S else text
