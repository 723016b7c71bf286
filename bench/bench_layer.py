"""How fast layers are made: MB/s, and ratios to `tar | gzip` and to hashing alone, in one run.

    python bench/bench_layer.py DIRECTORY [CODEC:LEVEL ...]

Every figure is the best of three passes over DIRECTORY, which should be in the page cache.
"""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shipline.content import LocalStore
from shipline.layer import (
    StatCache,
    codec,
    decompress,
    read_tar,
    scan,
    stream_layer,
    unpack,
    write_tar,
)
from shipline.oci import Descriptor

ROUNDS = 3


def best(work: Callable[[], object]) -> float:
    """Seconds of the quickest round."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def show(what: str, seconds: float, size: int, reference: float, note: str = "") -> None:
    rate = size / seconds / 1e6
    print(f"{what:28} {seconds:7.2f} s {rate:8.0f} MB/s {seconds / reference:7.2f} x hash  {note}")


def measure(tree: Path, specs: list[str], scratch: Path) -> None:
    items = list(scan(tree).items())
    size = sum(map(len, write_tar(items)))
    print(f"{len(items)} entries, {size / 1e6:.0f} MB as tar")
    block = bytes(1 << 20)
    hashed = best(lambda: [hashlib.sha256(block) for _ in range(size >> 20)])
    show("sha256, one thread", hashed, size, hashed)
    command = f"tar -C '{tree}' -cf - . | gzip -6 | wc -c"
    start = time.perf_counter()
    gzipped = subprocess.run(command, shell=True, check=True, capture_output=True).stdout
    peer = time.perf_counter() - start
    show("tar | gzip -6", peer, size, hashed, f"{int(gzipped) / 1e6:.0f} MB")

    file = scratch / "stat"
    for what in ("scan and digest, cold", "scan and digest, unchanged"):
        if "cold" in what:
            seconds = best(lambda: scan(tree).digest())
        else:
            seconds = best(lambda: digest(tree, file))
        show(what, seconds, size, hashed)
    show("tar alone", best(lambda: sum(map(len, write_tar(items)))), size, hashed)
    store = LocalStore(scratch / "store")
    layers: list[Descriptor] = []

    def make(name: str, level: int) -> None:
        with store.ingest() as ingest:
            layer = stream_layer(write_tar(items), ingest, codec(name, level))
        layers.append(layer.descriptor)

    for spec in specs:
        name, _, level = spec.partition(":")
        seconds = best(lambda name=name, level=level: make(name, int(level or 0)))  # type: ignore[misc]
        note = f"{layers[-1].size / 1e6:.0f} MB, {peer / seconds:.1f} x as fast as tar | gzip"
        show(f"tar, diff ID, {spec}, store", seconds, size, hashed, note)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")

    count = 0

    def pull() -> None:
        nonlocal count
        count += 1
        place = scratch / f"out{count}"
        place.mkdir()
        with store.fetch(layers[0]) as blob:
            unpack(
                read_tar(decompress(blob, specs[0].partition(":")[0])), place, whiteouts="overlay"
            )

    show("verify, decompress, unpack", best(pull), size, hashed)


def digest(tree: Path, file: Path) -> None:
    with StatCache.open(file) as cache:
        scan(tree, cache=cache).digest()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        measure(Path(sys.argv[1]), sys.argv[2:] or ["gzip:1", "gzip:6", "zstd:3"], Path(name))
