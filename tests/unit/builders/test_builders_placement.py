"""Each platform goes to the node that suits it best, and builds to nodes that are not busy."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shipline.builders.instances import Builder, Node
from shipline.builders.nodes import NodeFacts
from shipline.builders.placement import Claims, can_build, place
from shipline.builders.solving import OpenNode
from shipline.buildkit.control import Control
from shipline.grpc.connection import SocketPipe, connected
from shipline.oci import Platform

AMD, ARM, V7 = (Platform.parse(one) for one in ("linux/amd64", "linux/arm64", "linux/arm/v7"))


@pytest.fixture(scope="module")
def control() -> Iterator[Control]:
    """A daemon that is never asked."""
    ours, theirs = socket.socketpair()
    with theirs, connected(SocketPipe(ours)) as connection:
        yield Control(connection)


class Nodes:
    def __init__(self, control: Control) -> None:
        self._control = control

    def __call__(
        self, *platforms: Platform, name: str = "n", fixed: tuple[Platform, ...] = ()
    ) -> OpenNode:
        facts = NodeFacts("v", platforms, {})
        return OpenNode(Node(name, "tcp://n", fixed), facts, self._control)


@pytest.fixture
def node(control: Control) -> Nodes:
    return Nodes(control)


def test_native_comes_before_emulation_wherever_it_stands(node: Nodes) -> None:
    emulating, native = node(AMD, ARM, V7), node(ARM, V7, AMD)
    assert place([AMD, ARM], [emulating, native]) == [(0, (AMD,)), (1, (ARM,))]
    assert place([AMD, ARM], [native, emulating]) == [(0, (ARM,)), (1, (AMD,))]


def test_fixed_platforms_come_before_all(node: Nodes) -> None:
    """Also those that the daemon does not name."""
    plain, fixed = node(AMD, ARM), node(AMD, fixed=(V7, AMD))
    assert place([AMD, V7, ARM], [plain, fixed]) == [(0, (ARM,)), (1, (AMD, V7))]


def test_equal_nodes_share_the_platforms_of_a_build(node: Nodes) -> None:
    nodes = [node(AMD, ARM, V7, name=name) for name in ("a", "b")]
    placed = place([AMD, ARM, V7], nodes)
    assert sorted(len(platforms) for _, platforms in placed) == [1, 2]


def test_what_cannot_be_joined_stays_together(node: Nodes) -> None:
    """Where that is not worse than what other nodes can do."""
    able, other = node(AMD, ARM, name="a"), node(AMD, name="b")
    assert place([AMD, ARM], [other, able], together=True) == [(1, (AMD, ARM))]
    native = node(ARM, AMD, name="c")
    assert place([AMD, ARM], [able, native], together=True) == [(0, (AMD,)), (1, (ARM,))]


def test_a_context_returns_to_its_node_unless_that_is_busy(node: Nodes) -> None:
    nodes = [node(AMD, name=name) for name in "abcd"]
    ((home, _),) = place([AMD], nodes, "context")
    name = nodes[home].node.name
    assert place([AMD], list(reversed(nodes)), "context") == [(3 - home, (AMD,))]
    assert place([AMD], nodes, "context", {name: 2}) == [(home, (AMD,))]
    assert place([AMD], nodes, "context", {name: 3}) != [(home, (AMD,))]
    assert place([AMD], nodes, "context", dict.fromkeys("abcd", 9)) == [(home, (AMD,))]
    left = [one for one in nodes if one is not nodes[home]]
    ((elsewhere, _),) = place([AMD], left, "context")
    assert left[elsewhere] is not nodes[home]


def test_only_the_contexts_of_a_node_move_when_it_is_lost(node: Nodes) -> None:
    nodes = [node(AMD, name=name) for name in "abcd"]

    def homes(among: list[OpenNode]) -> dict[str, str]:
        keys = [f"context-{number}" for number in range(200)]
        return {key: among[place([AMD], among, key)[0][0]].node.name for key in keys}

    before, after = homes(nodes), homes(nodes[1:])
    assert {key for key in before if before[key] != after[key]} == {
        key for key in before if before[key] == "a"
    }
    assert min(Counter(before.values()).values()) > 25, "each has its share of 200"


def test_builds_that_begin_at_once_are_spread(node: Nodes, tmp_path: Path) -> None:
    """Each knows the claims of those before it, though no daemon has reported them."""
    nodes = [node(AMD, name=name) for name in "abcd"]
    claims = Claims(tmp_path, Builder("farm", "remote", tuple(one.node for one in nodes)))
    with ExitStack() as stack:
        for _ in range(40):
            with claims.deciding():
                ((index, _),) = place([AMD], nodes, "one context", claims.loads(nodes))
                claims.claim(nodes[index].node, stack)
        loads = claims.loads(nodes)
        assert sum(loads.values()) == 40 and max(loads.values()) - min(loads.values()) <= 3
    assert sum(claims.loads(nodes).values()) == 0
    stale = next(one for one in (tmp_path / "builders/farm").iterdir() if one.is_dir()) / "1-dead"
    stale.touch()
    assert sum(claims.loads(nodes).values()) == 0 and not stale.exists()


def test_a_platform_that_nobody_names_may_still_be_built(node: Nodes) -> None:
    """Of files alone; but a node that names it comes first, also if it emulates it."""
    assert place([V7], [node(AMD), node(ARM, V7)]) == [(1, (V7,))]
    assert place([V7], [node(AMD)]) == [(0, (V7,))]
    assert can_build([AMD, ARM], [node(AMD), node(ARM)])
    assert not can_build([AMD, V7], [node(AMD), node(ARM)])
