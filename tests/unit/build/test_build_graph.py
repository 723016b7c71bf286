"""Vertices are equal where their work is equal."""

from __future__ import annotations

from shipline.build.graph import ContextOp, CopyOp, RunOp, ScratchOp, Vertex, VertexLabel, walk
from shipline.values import replace

SCRATCH = Vertex(ScratchOp())
RUN = RunOp(("true",), (), "/", "", "linux/amd64")


def test_equal_work_is_one_vertex_whatever_it_is_called() -> None:
    one = Vertex(RUN, (SCRATCH,), VertexLabel("one"))
    two = Vertex(RUN, (Vertex(ScratchOp()),), VertexLabel("two"))
    assert one == two
    assert {one: 1}[two] == 1


def test_other_work_is_another_vertex() -> None:
    base = Vertex(RUN, (SCRATCH,))
    others = [
        Vertex(replace(RUN, platform="linux/arm64"), (SCRATCH,)),
        Vertex(replace(RUN, env=("A=b",)), (SCRATCH,)),
        Vertex(RUN, (base,)),
        Vertex(RUN, (SCRATCH, SCRATCH)),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_walk_gives_inputs_first_and_each_once() -> None:
    context = Vertex(ContextOp("context"))
    copy = Vertex(CopyOp(("a",), "/"), (SCRATCH, context))
    top = Vertex(RUN, (copy, SCRATCH))
    order = list(walk(top, copy))
    assert len(order) == len(set(order)) == 4
    assert all(order.index(one) < order.index(vertex) for vertex in order for one in vertex.inputs)


def test_chain_is_the_root_filesystem_alone() -> None:
    copy = Vertex(CopyOp(("a",), "/"), (SCRATCH, Vertex(ContextOp("context"))))
    assert [type(one.op) for one in copy.chain()] == [CopyOp, ScratchOp]
