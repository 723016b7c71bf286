"""Comparing an image with a tree that a case spells out, for what the peer cannot build."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from corpus.case import Case
from corpus.context import content
from corpus.difference import CONFIG, TREE, Difference
from corpus.entry import EPOCH, Entry
from corpus.image import Image, Node

_KINDS = {"c": "char", "b": "block"}


def compare_with_expected(case: Case, got: Mapping[str, Image]) -> list[Difference]:
    """What of the image is not as the case's `expected` sections say; parents may go unnamed."""
    differences = []
    for platform in case.platforms:
        image = got.get(platform)
        if image is None:
            differences.append(Difference(CONFIG, platform, "", "platform", True, False))
            continue
        for place, name, want, have in _compare_tree(case, image.files):
            differences.append(Difference(TREE, platform, place, name, want, have))
        config = image.config.get("config", {})
        for key, value in case.expected_config.items():
            if config.get(key) != value:
                differences.append(Difference(CONFIG, platform, key, "", value, config.get(key)))
    return differences


def _compare_tree(case: Case, files: Mapping[str, Node]) -> list[tuple[str, str, object, object]]:
    found: list[tuple[str, str, object, object]] = []
    names = {entry.name for entry in case.expected}
    parents = {f"{name[:at]}" for name in names for at, c in enumerate(name) if c == "/"}
    for entry in case.expected:
        node = files.get(entry.name)
        if node is None:
            found.append((entry.name, "", entry.kind, "nothing"))
            continue
        for field, want, have in (
            ("kind", _KINDS.get(entry.kind, entry.kind), node.kind),
            ("mode", oct(entry.mode), oct(node.mode)),
            ("owner", (entry.uid, entry.gid), (node.uid, node.gid)),
            ("link", entry.link, node.link),
            ("content", _digest(entry, case), node.sha256),
            ("mtime", entry.mtime, EPOCH if entry.mtime == EPOCH else node.mtime),
        ):
            if want != have:
                found.append((entry.name, field, want, have))
    for name in sorted(files.keys() - names - parents):
        found.append((name, "", "nothing", files[name].kind))
    return found


def _digest(entry: Entry, case: Case) -> str:
    if entry.kind != "file":
        return ""
    source = next((each for each in case.entries if each.name == entry.same), entry)
    return hashlib.sha256(content(source)).hexdigest()
