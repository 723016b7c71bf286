"""Each platform goes to the node that suits it best."""

from __future__ import annotations

import pytest

from shipline.builders.farm import place
from shipline.builders.instances import Node
from shipline.builders.nodes import NodeFacts
from shipline.errors import BuilderError
from shipline.oci import Platform

AMD, ARM, V7 = (Platform.parse(one) for one in ("linux/amd64", "linux/arm64", "linux/arm/v7"))


def node(*platforms: Platform, fixed: tuple[Platform, ...] = ()) -> tuple[Node, NodeFacts]:
    return Node("n", "tcp://n", fixed), NodeFacts("v", platforms, {})


def test_native_comes_before_emulation_wherever_it_stands() -> None:
    emulating, native = node(AMD, ARM, V7), node(ARM, V7, AMD)
    assert place([AMD, ARM], [emulating, native]) == [(0, (AMD,)), (1, (ARM,))]
    assert place([AMD, ARM], [native, emulating]) == [(0, (ARM,)), (1, (AMD,))]


def test_fixed_platforms_come_before_all() -> None:
    plain, fixed = node(AMD, ARM), node(AMD, fixed=(V7, AMD))
    assert place([AMD, V7, ARM], [plain, fixed]) == [(0, (ARM,)), (1, (AMD, V7))]


def test_equal_nodes_share_the_work() -> None:
    nodes = [node(AMD, ARM, V7), node(AMD, ARM, V7)]
    placed = place([AMD, ARM, V7], nodes)
    assert sorted(len(platforms) for _, platforms in placed) == [1, 2]
    assert place([AMD], nodes) == [(0, (AMD,))]


def test_a_platform_that_nobody_builds_is_one_error() -> None:
    with pytest.raises(BuilderError, match="linux/arm/v7") as caught:
        place([AMD, V7], [node(AMD, ARM)])
    assert "linux/amd64, linux/arm64" in caught.value.hint
