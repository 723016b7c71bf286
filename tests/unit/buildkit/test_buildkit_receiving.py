"""A directory that is sent and received is the same, and what is there is not sent again."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.buildkit.filesync import PacketType, send_directories
from shipline.buildkit.messages import Packet, Stat
from shipline.buildkit.receiving import receive_directory
from shipline.grpc.connection import Connection, Handler, RpcCall, RpcError, SocketPipe, connected
from shipline.grpc.protobuf import encode
from shipline.tasks import TaskGroup

PATH = "/moby.filesync.v1.FileSync/DiffCopy"


@contextmanager
def client_of(handler: Handler) -> Iterator[Connection]:
    """A connection to a machine that answers calls for directories."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with connected(SocketPipe(theirs), {PATH: handler}) as connection:
            connection.wait_until_closed()

    with ours, theirs, TaskGroup() as group:
        group.start(answer)
        with connected(SocketPipe(ours)) as connection:
            yield connection


Shape = dict[str, "Shape | str | int"]
NAMES = st.sampled_from(["a", "b", "a.b", "é", "..c", "link"])
SHAPES: st.SearchStrategy[Shape] = st.recursive(
    st.dictionaries(NAMES, st.text(max_size=4) | st.sampled_from([0o600, 0o755, 0o4711])),
    lambda inner: st.dictionaries(NAMES, inner | st.text(max_size=4), max_size=4),
    max_leaves=12,
)
"""Directories; a text is a symbolic link where the name says so, else a file's content, and a
number the mode of an empty file."""


def write(shape: Shape, place: Path) -> None:
    place.mkdir(exist_ok=True)
    for name, value in shape.items():
        path = place / name
        if isinstance(value, dict):
            write(value, path)
        elif isinstance(value, int):
            path.touch()
            path.chmod(value)
        elif name == "link":
            path.symlink_to(f"x{value}".replace("\0", ""))
        else:
            path.write_text(value, errors="replace")


def seen(place: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in place.rglob("*"):
        state = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(place))] = (state.st_mode, state.st_mtime_ns, content)
    return found


@settings(max_examples=settings().max_examples // 4)
@given(st.lists(SHAPES, min_size=1, max_size=3))
def test_what_is_received_is_what_was_sent_whatever_was_there(shapes: list[Shape]) -> None:
    with TemporaryDirectory() as work:
        source, target = Path(work, "source"), Path(work, "target")
        with client_of(send_directories({"d": source})) as connection:
            for shape in shapes:
                shutil.rmtree(source, ignore_errors=True)
                write(shape, source)
                for _ in range(2):
                    before = {path: path.lstat() for path in target.rglob("*")}
                    receive_directory(connection, "d", target, {})
                    assert seen(target) == seen(source)
                for path, state in before.items():  # nothing changed, so nothing was written
                    assert path.lstat().st_ctime_ns == state.st_ctime_ns, path


def test_names_of_one_file_stay_one_file(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    write({"d": {"a": "x"}, "b": "y"}, source)
    (source / "z").hardlink_to(source / "d/a")
    with client_of(send_directories({"d": source})) as connection:
        for _ in range(2):
            receive_directory(connection, "d", target, {})
            assert (target / "z").samefile(target / "d/a")
            assert (target / "z").read_text() == "x"


def test_many_files_arrive(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    write({f"f{number}": f"{number}" for number in range(2500)}, source)
    (source / "big").write_bytes(os.urandom(3 << 20))
    with client_of(send_directories({"d": source})) as connection:
        receive_directory(connection, "d", target, {})
    assert seen(target) == seen(source)


FILE, DIRECTORY, LINK = 0o644, 1 << 31 | 0o755, 1 << 27 | 0o777


@pytest.mark.parametrize(
    "stats",
    [
        [Stat("../x", FILE)],
        [Stat("/x", FILE)],
        [Stat("a//b", FILE)],
        [Stat(".", DIRECTORY)],
        [Stat("a/b", FILE)],
        [Stat("a", LINK, link_name="/tmp"), Stat("a/b", FILE)],
    ],
)
def test_no_path_leads_out_of_the_directory(stats: list[Stat], tmp_path: Path) -> None:
    def answer(stream: RpcCall) -> None:
        for one in stats:
            stream.send(encode(Packet(PacketType.STAT, one)))
        stream.send(encode(Packet(PacketType.STAT)))
        for _ in stream:
            pass

    with client_of(answer) as connection, pytest.raises(RpcError):
        receive_directory(connection, "d", tmp_path / "target", {})
    assert not list((tmp_path / "target").iterdir())


def test_what_was_cut_off_does_not_count_as_there(tmp_path: Path) -> None:
    def answer(stream: RpcCall) -> None:
        stream.send(encode(Packet(PacketType.STAT, Stat("a", FILE, size=4))))
        stream.send(encode(Packet(PacketType.STAT)))
        stream.receive()
        stream.send(encode(Packet(PacketType.DATA, id=0, data=b"ab")))

    with client_of(answer) as connection, pytest.raises(RpcError, match="ended early"):
        receive_directory(connection, "d", tmp_path / "target", {})
    assert not list((tmp_path / "target").iterdir())


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with (
        client_of(send_directories({})) as connection,
        pytest.raises(RpcError, match="no directory 'd'"),
    ):
        receive_directory(connection, "d", tmp_path / "target", {})


def test_special_bits_and_devices_travel(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    write({"set": 0o4711, "d": {}}, source)
    (source / "d").chmod(0o1777)
    os.mkfifo(source / "pipe")
    with client_of(send_directories({"d": source})) as connection:
        receive_directory(connection, "d", target, {})
    assert stat.S_IMODE((target / "set").stat().st_mode) == 0o4711
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o1777
    assert stat.S_ISFIFO((target / "pipe").stat().st_mode)
