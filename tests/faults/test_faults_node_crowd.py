"""Two hundred clients that push and pull at once: right answers, and memory that has a bound."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from nodes import Node, node
from spec_client import OCTETS, Target, sha256, with_query

CLIENTS = 200
SIZE = 2 << 20  # bytes of each blob
MOST = 230 << 20  # bytes of memory: of the process, of its blocks, and 0.5 MiB for each client
_WAIT_S = 60


def peak_memory(running: Node) -> int:
    """Bytes of the process at their most (proc(5), VmHWM)."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


def push(target: Target, number: int, half: threading.Barrier) -> bool:
    """With or without a length, or with PATCH first; all have sent the half before any goes on."""
    data = content(number)

    def pieces() -> Iterator[bytes]:
        for first in range(0, SIZE, 65536):
            if first == SIZE // 2:
                half.wait(_WAIT_S)
            yield data[first : first + 65536]

    place = with_query(target.start(), digest=sha256(data))
    length = {"Content-Length": str(SIZE)} if number % 3 == 0 else {}
    if number % 3 < 2:
        return target.call("PUT", place, pieces(), {**OCTETS, **length}).status == 201
    patched = target.call("PATCH", place.partition("?")[0], pieces(), OCTETS)
    return patched.status == 202 and target.call("PUT", place, b"", OCTETS).status == 201


def pull(target: Target, number: int) -> bool:
    digest = sha256(content(number))
    half = target.call("GET", f"blobs/{digest}", headers={"Range": f"bytes={SIZE // 2}-"})
    whole = target.call("GET", f"blobs/{digest}")
    seen = f"sha256:{hashlib.sha256(whole.body).hexdigest()}"
    return seen == digest and half.body == whole.body[SIZE // 2 :]


def all_at_once(work: Callable[[Target, int], bool], target: Target) -> list[int]:
    """The numbers of the clients that were not served as they must be."""
    failed: list[int] = []

    def run(number: int) -> None:
        try:
            served = work(target, number)
        except Exception:
            served = False
        if not served:
            failed.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def test_two_hundred_clients_push_and_pull_within_bounded_memory(tmp_path: Path) -> None:
    with node(tmp_path / "data") as running:
        target = Target(running.url, "crowd/repo")
        assert all_at_once(partial(push, half=threading.Barrier(CLIENTS)), target) == []
        assert all_at_once(pull, target) == []
        assert peak_memory(running) < MOST
        assert running.process.poll() is None
