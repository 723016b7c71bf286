"""The parts of the cache keys of steps, for people who ask why a step ran: a digest of each part by
its name, as `command`, `variable CC`, `base`, `from build`, `files src`.

The values themselves are not in there: variables may hold what nobody should read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial

from shipline.build.graph import CopyOp, ImageOp, RunOp, Vertex, key_of, parts_of
from shipline.build.selecting import ContextDirectory
from shipline.build.worker import Source
from shipline.history import FileTables
from shipline.layer import Tree

_SHOWN = 12  # characters of a digest, which is enough to see a difference
_APART = frozenset({"env", "args", "script", "inputs", "files"})


def key_parts(vertex: Vertex, inputs: Sequence[Source]) -> str:
    """The parts as JSON, without files; the digest of a part that is the result of another vertex
    is followed by a space and the digest of that vertex.
    """
    op = vertex.op
    fields = parts_of(op, op.WITHOUT_EFFECT)
    parts = {
        name.replace("_", " "): _digest(value)
        for name, value in fields.items()
        if value and name not in _APART
    }
    if isinstance(op, RunOp):
        parts["command"] = _digest([op.args, op.script])
        for variable in op.env:
            name, _, value = variable.partition("=")
            parts[f"variable {name}"] = _digest(value)
    elif isinstance(op, CopyOp) and op.files:
        parts["text"] = _digest(op.files)
    for number, (one, result) in enumerate(zip(vertex.inputs, inputs, strict=False)):
        if content := _content(one, result):
            parts[_name_of(number, one)] = f"{content} {one.digest}"
    return json.dumps(parts)


def files_parts(
    trees: Iterable[tuple[str, Tree, tuple[int, int] | None]], tables: FileTables
) -> str:
    """The digests of trees by their paths, as JSON; `tables` gets the names of their files."""
    found = {}
    for path, tree, owner in trees:
        digest = found[path] = str(tree.digest(owner))
        tables.add(digest, len(tree), partial(tree.rows, owner))
    return json.dumps(found)


def _name_of(number: int, vertex: Vertex) -> str:
    if isinstance(vertex.op, ImageOp):
        name = vertex.label.name.removeprefix("FROM ").removeprefix("docker.io/")
        return f"image {name.removeprefix('library/')}"
    if number == 0:
        return "base"
    return f"from {vertex.label.stage or vertex.label.name}"


def _content(vertex: Vertex, source: Source) -> str:
    """What identifies the files of an input; empty for a directory, whose files are parts."""
    if isinstance(vertex.op, ImageOp):
        return str(vertex.op.manifest)
    if isinstance(source, ContextDirectory):
        return _digest(source.pin) if source.pin else ""
    return _digest(source.diff_ids) if source.layers else ""


def _digest(value: object) -> str:
    return key_of("part/1", value=value)[:_SHOWN]
