"""A daemon that says nothing any more is given up, one that only has nothing to say is not."""

from __future__ import annotations

import socket
import time

import pytest

from shipline.buildkit import progress
from shipline.buildkit.control import Control
from shipline.grpc.connection import Code, RpcCall, RpcError, SocketPipe, connected


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"_WATCH_S": 0.05, "_QUIET_S": 0.1, "_LOST_S": 0.6}.items():
        monkeypatch.setattr(progress, name, seconds)


def test_a_daemon_that_hangs_is_lost() -> None:
    ours, theirs = socket.socketpair()
    with (
        theirs,
        connected(SocketPipe(ours)) as connection,
        pytest.raises(RpcError) as caught,
        progress.watched(Control(connection)),
    ):
        connection.call("/a.B/Solve", {}).receive()
    assert caught.value.code == Code.UNAVAILABLE
    assert "nothing has come from it" in caught.value.message
    assert not connection.is_open


def test_a_long_step_without_output_is_waited_for() -> None:
    def solve(stream: RpcCall) -> None:
        time.sleep(2)
        stream.send(b"done")

    asked = []

    def info(stream: RpcCall) -> None:
        asked.append(True)
        stream.send(b"")

    ours, theirs = socket.socketpair()
    handlers = {"/a.B/Solve": solve, "/moby.buildkit.v1.Control/Info": info}
    with (
        connected(SocketPipe(theirs), handlers),
        connected(SocketPipe(ours)) as connection,
        progress.watched(Control(connection)),
    ):
        assert connection.call("/a.B/Solve", {}).receive() == b"done"
    assert len(asked) > 1
