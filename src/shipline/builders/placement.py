"""Which node builds which platform: native before emulation, what has the files of a context in
its cache before what has not, and never one that is much busier than another.

Source: docker/buildx, build/resolver.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from shipline.build.request import BuildRequest
from shipline.builders.instances import Builder, Node
from shipline.builders.solving import OpenNode
from shipline.content import try_lock
from shipline.oci import Platform
from shipline.tasks import locked

_SLACK = 2  # builds that a node may have more than the least busy one, for the sake of its cache
_UNNAMED = 3  # the rank of a node that does not say that it can build a platform

Placement = list[tuple[int, tuple[Platform, ...]]]
"""The nodes that build, by index, each with its platforms."""


def place(
    platforms: Sequence[Platform],
    nodes: Sequence[OpenNode],
    key: str = "",
    loads: Mapping[str, int] | None = None,
    *,
    together: bool = False,
) -> Placement:
    """Where each platform is built. Those that are fixed for a node go there, others to a node of
    their own architecture, before one that emulates it. Of equal nodes those with fewest platforms
    of this build remain, then those that are not busier by more than two builds (`loads`, by name),
    then the first in an order that is always the same for a build with this `key`. All go
    `together` to one node, if there is one that suits none worse than another node does. What no
    daemon names may still be built, of files alone.
    """
    chosen: dict[int, list[Platform]] = {}
    best = {platform: _best(platform, nodes) for platform in platforms}
    common = set(range(len(nodes))).intersection(*best.values())
    whole = together and bool(common)
    for group in [tuple(platforms)] if whole else [(one,) for one in platforms]:
        equal = sorted(common) if whole else best[group[0]]
        fewest = min(len(chosen.get(index, ())) for index in equal)
        equal = [index for index in equal if len(chosen.get(index, ())) == fewest]
        busy = {index: (loads or {}).get(nodes[index].node.name, 0) for index in equal}
        ready = [index for index in equal if busy[index] <= min(busy.values()) + _SLACK]
        index = max(ready, key=lambda index: _weight(key, group, nodes[index].node.name))
        chosen.setdefault(index, []).extend(group)
    return [(index, tuple(found)) for index, found in sorted(chosen.items())]


def can_build(platforms: Sequence[Platform], nodes: Sequence[OpenNode]) -> bool:
    """Whether there is a node for each platform that says so."""
    return all(any(_rank(one, node) < _UNNAMED for node in nodes) for one in platforms)


def _best(platform: Platform, nodes: Sequence[OpenNode]) -> list[int]:
    """The nodes that suit a platform best, by index."""
    ranks = [_rank(platform, one) for one in nodes]
    return [index for index, rank in enumerate(ranks) if rank == min(ranks)]


def _rank(platform: Platform, one: OpenNode) -> int:
    """How well a node suits a platform, 0 is best."""
    if platform in one.node.platforms:
        return 0
    if platform not in one.facts.platforms:
        return _UNNAMED
    return 1 if one.facts.platforms[0].architecture == platform.architecture else 2


def _weight(key: str, group: tuple[Platform, ...], name: str) -> bytes:
    """Rendezvous hashing: where nodes come and go, only what was on them moves (Thaler and
    Ravishankar, 1998).
    """
    return hashlib.sha256(f"{key}\0{','.join(map(str, group))}\0{name}".encode()).digest()


def affinity_key(request: BuildRequest) -> str:
    """Names the context of a build, on every machine alike if it comes from a repository."""
    context = request.context
    if context.is_local and (source := request.vcs.get("source")):
        return f"{source} {request.vcs.get('localdir:context', '')}"
    return str(Path(context.location).absolute()) if context.is_local else context.location


class Claims:
    """The builds of this machine on the nodes of a builder, each a locked file that ends with its
    process: what the daemons say of their load is too old where many builds begin at once.
    """

    def __init__(self, home: Path, builder: Builder) -> None:
        self._directory = home / "builders" / builder.name

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Inside the block no other build of this machine is placed."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self._directory / ".lock"):
            yield

    def loads(self, nodes: Sequence[OpenNode]) -> dict[str, int]:
        """The running builds of each node, by name: those that it reported when it was opened, or
        those of this machine, whichever are more.
        """
        return {one.node.name: max(one.running, self._count(one.node)) for one in nodes}

    def claim(self, node: Node, stack: ExitStack) -> None:
        """Count as a build on the node until `stack` closes."""
        path = self._of(node) / f"{os.getpid()}-{os.urandom(4).hex()}"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        stack.callback(path.unlink, missing_ok=True)
        stack.enter_context(try_lock(path))

    def _of(self, node: Node) -> Path:
        return self._directory / hashlib.sha256(node.name.encode()).hexdigest()[:20]

    def _count(self, node: Node) -> int:
        found = 0
        with suppress(FileNotFoundError):
            for path in list(self._of(node).iterdir()):
                with try_lock(path) as is_stale:
                    found += not is_stale
                    if is_stale:
                        path.unlink(missing_ok=True)
        return found
