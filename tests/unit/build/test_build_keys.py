"""Keys of the cache: named fields with a version, all that matters and nothing that does not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from layers_for_tests import make_layer, open_worker, table_of

import shipline.build
from shipline.build.copying import instruction_key
from shipline.build.graph import (
    ContextOp,
    CopyOp,
    GitOp,
    HttpOp,
    ImageOp,
    MakeDirectoryOp,
    Op,
    RunMount,
    RunOp,
    ScratchOp,
    key_of,
)
from shipline.build.placing import Placement, entry_key
from shipline.build.running import run_key
from shipline.build.selecting import ContextDirectory
from shipline.build.snapshots import Snapshot
from shipline.git import GitSource
from shipline.layer import Entry, Layer
from shipline.oci import Digest, Resources
from shipline.values import replace

MOUNT = RunMount("bind", "/m")
RUN = RunOp(("true",), ("A=b",), "/", "root", "linux/amd64", mounts=(MOUNT,))
COPY = CopyOp(("a",), "/")
OPERATIONS: tuple[Op, ...] = (
    ScratchOp(),
    ImageOp(Digest.of(b"one")),
    ContextOp("context"),
    HttpOp("https://h/f", "f"),
    GitOp(GitSource("https://h/x.git", ref="main")),
    RUN,
    COPY,
    MakeDirectoryOp("/w"),
)
IGNORED = {
    ("RunOp", "proxies"): ("HTTP_PROXY=x",),
    ("RunOp", "resources"): Resources(memory=1),
    ("RunOp", "absent"): ("a.example/b=c",),
}
"""Fields on which no result depends, with another value for each."""


def other(value: Any) -> Any:
    """A value of the same type that is another one."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return f"{value}x"
        case Digest():
            return Digest.of(str(value).encode())
        case GitSource():
            return replace(value, subdir="other")
        case (RunMount() as mount,):
            return (replace(mount, target="/other"),)
        case tuple():
            return (*value, *(value[:1] or ("x",)))
    raise AssertionError(value)


def variants(operation: Any) -> Iterator[tuple[str, Any]]:
    for name in operation.__struct_fields__:
        if (type(operation).__name__, name) not in IGNORED:
            changed = other(getattr(operation, name))
            yield name, replace(operation, **{name: changed})


def test_every_field_of_an_operation_changes_its_key() -> None:
    for operation in OPERATIONS:
        found = {name: changed.key() for name, changed in variants(operation)}
        assert len({operation.key(), *found.values()}) == 1 + len(found), type(operation)


def test_every_field_of_a_mount_changes_the_key_of_its_run() -> None:
    found = [replace(RUN, mounts=(changed,)).key() for _, changed in variants(MOUNT)]
    assert len({RUN.key(), *found}) == 1 + len(MOUNT.__struct_fields__)


def test_what_no_result_depends_on_changes_no_key() -> None:
    for (_, name), value in IGNORED.items():
        assert replace(RUN, **{name: value}).key() == RUN.key()


def test_keys_are_those_of_earlier_versions() -> None:
    """Cached layers stay where nothing changed; who changes this on purpose changes a version."""
    assert [one.key()[:12] for one in OPERATIONS] == [
        "21abffa9426f",
        "120ea3639279",
        "3a9dcdc592eb",
        "34f2b7bbf70b",
        "025835d9aa04",
        "2048ec1f420a",
        "af175c101312",
        "cd46ee1f5707",
    ]


def test_a_key_tells_its_parts_apart() -> None:
    keys = [
        key_of("copy/1", a="b"),
        key_of("copy/2", a="b"),
        key_of("copy/1", a=["b"]),
        key_of("copy/1", a="b", c=None),
        key_of("copy/1", b="a"),
        key_of("copy/1", a="\udcff"),
        key_of("copy/1", a=1),
        key_of("copy/1", a="1"),
        key_of("copy/1", a=True),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of("copy/1", a=1, b=2) == key_of("copy/1", b=2, a=1)


def test_a_part_that_is_no_json_value_is_refused() -> None:
    with pytest.raises(TypeError):
        key_of("copy/1", layer=Digest.of(b"a"))


def test_every_field_of_an_entry_counts() -> None:
    entry = Entry("a", "file", xattrs=(("security.capability", b"\xff"),))
    changed = {
        **{name: other(getattr(entry, name)) for name in entry._fields if name != "xattrs"},
        "xattrs": (("security.capability", b"\xfe"),),
    }
    keys = [key_of("t", entry=entry_key(entry._replace(**{n: v}))) for n, v in changed.items()]
    assert len({key_of("t", entry=entry_key(entry)), *keys}) == 1 + len(entry._fields)


def test_the_time_of_a_build_is_not_part_of_what_it_places() -> None:
    keys = []
    for now_ns in (5, 6):
        placement = Placement(table_of(), None, now_ns)
        placement.make_directories("new")
        keys.append(placement.key())
    assert keys[0] == keys[1]


def test_inputs_are_part_of_the_key_of_a_step(tmp_path: Path) -> None:
    with open_worker(tmp_path / "home") as worker:
        layers = [make_layer(worker.store, [(Entry(name, "fifo"), None)]) for name in "ab"]
    snapshots: list[Snapshot] = [Snapshot(), *(Snapshot((layer,)) for layer in layers)]
    pairs = [(base, source) for base in snapshots for source in (None, *snapshots)]
    copies = {instruction_key(COPY, base, [source] if source else []) for base, source in pairs}
    assert len(copies) == len(pairs)
    runs = {run_key(RUN, [base, *([source] if source else [])]) for base, source in pairs}
    assert len(runs) == len(pairs)


def test_compression_is_no_part_of_a_key(tmp_path: Path) -> None:
    with open_worker(tmp_path / "home") as worker:
        items = [(Entry("a", "fifo"), None)]
        one, two = (make_layer(worker.store, items, name) for name in ("gzip", "zstd"))
    assert one != two
    bases = [Snapshot((Layer(layer.descriptor, layer.diff_id),)) for layer in (one, two)]
    assert run_key(RUN, bases[:1]) == run_key(RUN, bases[1:])


def test_files_of_a_context_are_part_of_the_key_of_a_run(tmp_path: Path) -> None:
    keys = []
    op = replace(RUN, mounts=(RunMount("bind", "/m", input=1),))
    for text in ("one", "two", "one"):
        (tmp_path / "a").write_text(text)
        keys.append(run_key(op, [Snapshot(), ContextDirectory(tmp_path, "the context")]))
    assert keys[0] == keys[2] != keys[1]


def test_no_key_is_made_of_a_repr() -> None:
    for path in sorted(Path(shipline.build.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Name) and node.id == "repr"), f"{path}:{node.lineno}"
            assert not (isinstance(node, ast.FunctionDef) and node.name == "__repr__"), path
