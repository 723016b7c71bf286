"""What targets ask for beyond files below the working directory: the user has to allow it.

Reference: bake/entitlements.go and docs/reference/buildx_bake.md (`--allow`) of docker/buildx.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from shipline.bake.requests import CWD, is_local, local_path, secret_file
from shipline.bake.selection import SelectedTargets
from shipline.bake.target import Target
from shipline.errors import InvalidFlag

_PLAIN = {
    "network.host": "Running build containers that can access host network",
    "security.insecure": "Running privileged containers that can make system changes",
    "ssh": "Forwarding default SSH agent socket",
}
_PATHS = {"fs.read": "Read", "fs.write": "Write"}
_IMAGES = ("image", "image.push", "image.load")  # buildx takes them, and asks for none
_ENTITLEMENTS = ("device",)


class Permissions(Struct, frozen=True):
    """Permissions that were given: words, and paths by kind; `*` is every path."""

    words: frozenset[str] = frozenset()
    paths: Mapping[str, tuple[str, ...]] = {}

    def allows(self, kind: str, path: str) -> bool:
        granted = self.paths.get(kind, ())
        return any(one == "*" or _is_below(path, one) for one in granted)


class Wanted(Struct, frozen=True, order=True):
    """A permission that is missing: its word for --allow, and what it is for."""

    flag: str
    purpose: str


def parse_permissions(texts: Iterable[str]) -> Permissions:
    """`network.host`, `security.insecure`, `ssh`, `fs.read=PATH`, `fs.write=PATH`, `fs=PATH`. The
    working directory is always allowed. Raises UsageError.
    """
    words: set[str] = set()
    here = os.path.realpath(os.getcwd())
    paths: dict[str, list[str]] = {"fs.read": [here], "fs.write": [here]}
    for text in texts:
        kind, equals, value = text.partition("=")
        if text in _PLAIN or kind in _IMAGES or kind in _ENTITLEMENTS:
            words.add(text)
            continue
        kinds = list(_PATHS) if kind == "fs" else [kind]
        if kind not in ("fs", *_PATHS) or not equals or not value:
            known = [*_PLAIN, "fs=PATH", *(f"{one}=PATH" for one in _PATHS)]
            raise InvalidFlag(f"--allow: {text!r} is not one of {', '.join(known)}")
        for one in kinds:
            paths[one].append("*" if value == "*" else os.path.realpath(value))
    return Permissions(frozenset(words), {kind: tuple(found) for kind, found in paths.items()})


def missing_permissions(
    selection: SelectedTargets,
    given: Permissions,
    environ: Mapping[str, str],
    *,
    files: bool = True,
) -> list[Wanted]:
    """What the targets ask for and is not given; with `files` false neither paths nor the agent of
    SSH are looked at.
    `environ` is where secrets are looked for first.
    """
    found: dict[Wanted, None] = {}
    for target in selection.targets.values():
        for word in _words(target):
            if word == "ssh" and not files:
                continue
            if word not in given.words and word not in selection.named:
                found[Wanted(word, _PLAIN[word])] = None
        for kind, path in _paths(target, environ) if files else ():
            real = _existing(path)
            if path in selection.named or given.allows(kind, real):
                continue
            purpose = f"{_PATHS[kind]} access to path {_shown(real)}"
            found[Wanted(f"{kind}={real}", purpose)] = None
    return sorted(_without_children(found))


def _without_children(wanted: Iterable[Wanted]) -> list[Wanted]:
    """Without paths that are below others of the same kind."""
    all_ = list(wanted)
    return [one for one in all_ if not any(_covers(other, one) for other in all_)]


def _covers(outer: Wanted, inner: Wanted) -> bool:
    kind, _, path = outer.flag.partition("=")
    other, _, below = inner.flag.partition("=")
    return outer != inner and kind == other and bool(path) and _is_below(below, path)


def _words(target: Target) -> Iterator[str]:
    for word in target.texts("entitlements"):
        if word in _PLAIN:
            yield word
    if any(not one.get("paths") for one in target.values.get("ssh") or ()):
        yield "ssh"


def _paths(target: Target, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    values: Mapping[str, Any] = target.values
    context = str(values.get("context") or ".")
    dockerfile = str(values.get("dockerfile") or "Dockerfile")
    reads = "dockerfile-inline" not in values and is_local(dockerfile)
    if is_local(context):
        yield "fs.read", local_path(context)
    if reads and (dockerfile.startswith(CWD) or os.path.isabs(dockerfile)):
        yield "fs.read", local_path(dockerfile)
    elif reads and is_local(context):
        yield "fs.read", os.path.join(local_path(context), dockerfile)
    for named in (values.get("contexts") or {}).values():
        if is_local(named):
            yield "fs.read", local_path(named)
        elif named.startswith("oci-layout://"):
            yield "fs.read", named.removeprefix("oci-layout://").partition("@")[0]
    for cache in values.get("cache-from") or ():
        if cache["type"] == "local" and cache.get("src"):
            yield "fs.read", cache["src"]
    for cache in values.get("cache-to") or ():
        if cache["type"] == "local" and cache.get("dest"):
            yield "fs.write", cache["dest"]
    for secret in values.get("secret") or ():
        if path := secret_file(secret, environ):
            yield "fs.read", path
    for agent in values.get("ssh") or ():
        yield from (("fs.read", path) for path in agent.get("paths") or ())
    for output in values.get("output") or ():
        if output.get("dest") and output["dest"] != "-":
            yield "fs.write", output["dest"]


def _shown(path: str) -> str:
    """The path from the working directory, if it is not two levels above it."""
    relative = os.path.relpath(path, os.path.realpath(os.getcwd()))
    return path if relative.startswith("../..") else relative


def _existing(path: str) -> str:
    """The path without links, as far as it exists."""
    real = os.path.realpath(path)
    while not os.path.lexists(real):
        real = os.path.dirname(real)
    return real


def _is_below(path: str, parent: str) -> bool:
    return path == parent or parent == "/" or path.startswith(f"{parent}/")
