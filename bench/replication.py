"""Many edges that follow one primary: what each costs it.

    python -m bench.replication [--edges 100] [--pushes 20]

Prints the CPU time of the primary and the bytes that it sends, per edge: while nothing changes, and
per entry while images are pushed. The edges are connections of this process, which read the journal
as edges do; one real edge then copies the images, which says what the content itself costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipline.content import MemoryStore, copy_graph
from shipline.oci import Descriptor, Digest, ImageConfig, Manifest, Platform, Reference, media
from shipline.registry import Client

_IDLE_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")
_LAYER = 1 << 20  # bytes


@contextmanager
def _node(root: Path, text: str) -> Iterator[tuple[str, int]]:
    """A node's address and process."""
    root.mkdir()
    (root / "shipline.yaml").write_text(f"version: 1\nregistry: {{{text}, data: data}}\n")
    command = [sys.executable, "-m", "shipline", "registry", "serve", "--listen", "127.0.0.1:0"]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=root, stderr=log, stdout=log)
    try:
        while "serving" not in (said := (root / "log").read_text()):
            if process.poll() is not None:
                raise SystemExit(said)
            time.sleep(0.05)
        yield said.rpartition("http://")[2].strip(), process.pid
    finally:
        process.terminate()
        process.wait()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class _Edge:
    """Reads the journal over one connection, as an edge does."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.partition(":")
        self.entries = self.received = 0
        self.cursor = ""

    async def follow(self) -> None:
        reader, writer = await asyncio.open_connection(self._host, int(self._port))
        try:
            while True:
                path = f"/_shipline/journal?since={self.cursor}&wait=30s&node=bench"
                writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                page = json.loads(await reader.readexactly(length))
                self.received += len(head) + length
                self.entries += len(page["entries"])
                self.cursor = page["cursor"]
        finally:
            writer.close()


def _image(seed: int) -> tuple[MemoryStore, Descriptor]:
    layer = (b"%016d" % seed) * (_LAYER // 16)
    config = ImageConfig(Platform("linux", "amd64")).set(Env=[f"SEED={seed}"]).to_bytes()
    manifest = Manifest.make(
        Descriptor.of(config, media.OCI_CONFIG), [Descriptor.of(layer, media.OCI_LAYER_GZIP)]
    )
    store = MemoryStore()
    store.blobs = {Digest.of(one): one for one in (layer, config, manifest.raw)}
    return store, manifest.descriptor


def _push(address: str, numbers: range) -> None:
    with Client() as client:
        repository = client.repository(Reference(address, "team/app"))
        for number in numbers:
            store, root = _image(number)
            copy_graph(store, repository, root)
            repository.tag(root, store, f"v{number}")


async def _measure(address: str, pid: int, edges: int, pushes: int) -> None:
    alone = await _pushed(address, pid, range(1000, 1000 + pushes), [])
    followers = [_Edge(address) for _ in range(edges)]
    tasks = [asyncio.create_task(one.follow()) for one in followers]
    await asyncio.sleep(3)
    cpu = _cpu_s(pid)
    await asyncio.sleep(_IDLE_S)
    idle = (_cpu_s(pid) - cpu) / edges / _IDLE_S
    print(f"waiting: {idle * 1e6:.0f} us of CPU per edge and second")
    both = await _pushed(address, pid, range(pushes), followers)
    sent = sum(one.received for one in followers)
    entries = sum(one.entries for one in followers)
    print(
        f"entries: {(both - alone) / edges / pushes * 1e3:.2f} ms of CPU and"
        f" {sent / max(entries, 1):.0f} bytes per edge and entry"
    )
    for task in tasks:
        task.cancel()


async def _pushed(address: str, pid: int, numbers: range, followers: list[_Edge]) -> float:
    """CPU of the primary while images are pushed, until all followers have their entries."""
    before, wanted = _cpu_s(pid), [one.entries + len(numbers) for one in followers]
    await asyncio.to_thread(_push, address, numbers)
    while any(one.entries < want for one, want in zip(followers, wanted, strict=True)):
        await asyncio.sleep(0.05)
    return _cpu_s(pid) - before


def _real_edge(root: Path, address: str, pid: int, pushes: int) -> None:
    before = _cpu_s(pid)
    text = f"role: edge, replication: [{{name: main, from: '{address}', at-once: 8}}]"
    with _node(root / "edge", text) as (edge, _):
        while True:
            with urllib.request.urlopen(f"http://{edge}/_shipline/regions") as answer:
                (state,) = json.load(answer)["regions"]
            if state["verified"] and not state["entries"]:
                break
            time.sleep(0.1)
    cost = (_cpu_s(pid) - before) / (2 * pushes)
    print(f"content: {cost * 1e3:.1f} ms of CPU per image of 1 MiB that an edge copies")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, default=100)
    parser.add_argument("--pushes", type=int, default=20)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="shipline-bench-") as place,
        _node(Path(place) / "primary", "role: primary") as (address, pid),
    ):
        asyncio.run(_measure(address, pid, options.edges, options.pushes))
        _real_edge(Path(place), address, pid, options.pushes)


if __name__ == "__main__":
    main()
