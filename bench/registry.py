"""The registry node beside Debian's docker-registry: same machine, same run, same clients.

    make bench-registry                       the table of docs/registry.md
    make bench-registry BENCH='--rounds 1'    a quick look

Each workload runs on both in turn, `--rounds` times, after the disk has settled; the figures are
medians. Pulls are of blobs that were pulled once before. Prints rates, CPU seconds of the server
for each GiB, and ratios; writes bench/results/registry.json. Needs the Debian packages
docker-registry and wrk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from bench.load import Blob, connected, parallel  # noqa: E402
from bench.meter import cpu_s, directory, peak_bytes, resident_bytes  # noqa: E402
from crowds import latencies, percentile, slow_clients  # noqa: E402
from nodes import node  # noqa: E402
from peers import docker_registry  # noqa: E402
from spec_client import MANIFEST, Target  # noqa: E402

MIB = 1 << 20
READERS, SENDERS = 1000, 300
REPOSITORY = "bench/image"
_WRK = ["wrk", "--threads", "1", "--connections", "16"]


@dataclass(frozen=True)
class Party:
    """A registry that runs."""

    name: str
    address: str
    process: int

    @property
    def url(self) -> str:
        return f"http://{self.address}"


@dataclass(frozen=True)
class Figure:
    """A rate in `unit` a second, and CPU seconds of the server for each thousand units."""

    rate: float
    cpu_s: float


@dataclass(frozen=True)
class Workload:
    name: str
    unit: str
    run: Callable[[Party], Figure]


def manifests(party: Party, seconds: int) -> Figure:
    target = Target(party.url, REPOSITORY)
    layers = [target.push_blob(os.urandom(64)) for _ in range(20)]
    described = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": 64}
        for digest in layers
    ]
    document = {**target.image("bench"), "layers": described}
    assert target.push(document, "v1").status == 201
    accept = ["--header", f"Accept: {MANIFEST}"]
    return run_wrk(party, f"/v2/{REPOSITORY}/manifests/v1", seconds, accept)


def ranges(party: Party, seconds: int, source: Path) -> Figure:
    blob = _pushed(party, source, 64 * MIB)
    _pull(party, blob)
    path = f"/v2/{REPOSITORY}/blobs/{blob.digest}"
    return run_wrk(party, path, seconds, ["--header", "Range: bytes=1048576-1114111"])


def pushes(party: Party, source: Path, size: int, number: int, connections: int) -> Figure:
    blobs = [Blob.make(source, size) for _ in range(number)]
    jobs = [lambda link, blob=blob: link.push(blob, REPOSITORY) for blob in blobs]
    return _timed(party, number * size, lambda: parallel(party.address, jobs, connections))


def pulls(party: Party, source: Path, size: int, number: int, connections: int) -> Figure:
    blob = _pushed(party, source, size)
    _pull(party, blob)
    jobs = [lambda link: link.pull(f"/v2/{REPOSITORY}/blobs/{blob.digest}")] * number
    return _timed(party, number * size, lambda: parallel(party.address, jobs, connections))


def first_pull(party: Party, source: Path, size: int) -> Figure:
    """Of a blob that was just pushed."""
    blob = _pushed(party, source, size)
    return _timed(party, size, lambda: _pull(party, blob))


def push_and_pull(party: Party, source: Path, size: int) -> Figure:
    """A blob on its way through a registry: the time of both."""
    blob = Blob.make(source, size)

    def through() -> float:
        start = time.monotonic()
        with connected(party.address) as link:
            link.push(blob, REPOSITORY)
            link.pull(f"/v2/{REPOSITORY}/blobs/{blob.digest}")
        return time.monotonic() - start

    return _timed(party, size, through)


def crowd(party: Party, source: Path, health: str) -> dict[str, float]:
    """What a crowd of slow clients makes of the others: the slowest of a hundred answers in
    milliseconds, and bytes of memory.
    """
    target = Target(party.url, REPOSITORY)
    assert target.push(target.image("crowd"), "crowd").status == 201
    path = f"/v2/{REPOSITORY}/blobs/{_pushed(party, source, 64 * MIB).digest}"
    with slow_clients(party.address, readers=READERS, senders=SENDERS, path=path):
        time.sleep(5)
        found = {
            "health_p99_ms": percentile(latencies(party.address, health, 10), 0.99) * 1000,
            "manifest_p99_ms": percentile(
                latencies(party.address, f"/v2/{REPOSITORY}/manifests/crowd", 10), 0.99
            )
            * 1000,
            "memory_bytes": resident_bytes(party.process),
        }
    print(
        f"{READERS} slow readers, {SENDERS} slow senders, {party.name}: health p99 "
        f"{found['health_p99_ms']:.1f} ms, manifest p99 {found['manifest_p99_ms']:.1f} ms, "
        f"{found['memory_bytes'] / MIB:,.0f} MiB",
        flush=True,
    )
    return found


def _pushed(party: Party, source: Path, size: int) -> Blob:
    blob = Blob.make(source, size)
    with connected(party.address) as link:
        link.push(blob, REPOSITORY)
    return blob


def _pull(party: Party, blob: Blob) -> float:
    start = time.monotonic()
    with connected(party.address) as link:
        link.pull(f"/v2/{REPOSITORY}/blobs/{blob.digest}")
    return time.monotonic() - start


def _timed(party: Party, size: int, work: Callable[[], float]) -> Figure:
    """`work` returns its seconds; the figure is in MiB."""
    before = cpu_s(party.process)
    seconds = work()
    used = cpu_s(party.process) - before
    return Figure(size / MIB / seconds, used / (size / MIB) * 1000)


def run_wrk(party: Party, path: str, seconds: int, more: list[str]) -> Figure:
    before = cpu_s(party.process)
    command = [*_WRK, "--duration", f"{seconds}s", *more, party.url + path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", done.stdout)
    assert found and rate and "Non-2xx" not in done.stdout, done.stdout
    used = cpu_s(party.process) - before
    return Figure(float(rate[1]), used / int(found[1]) * 1000)


def workloads(source: Path, seconds: int) -> list[Workload]:
    return [
        Workload("manifest GET", "requests", lambda party: manifests(party, seconds)),
        Workload("64 KiB range GET", "requests", lambda party: ranges(party, seconds, source)),
        Workload("push 1 MiB, 8 at once", "MiB", lambda party: pushes(party, source, MIB, 256, 8)),
        Workload("push 256 MiB", "MiB", lambda party: pushes(party, source, 256 * MIB, 2, 1)),
        Workload(
            "push 256 MiB, 2 at once", "MiB", lambda party: pushes(party, source, 256 * MIB, 4, 2)
        ),
        Workload("pull 1 MiB, 8 at once", "MiB", lambda party: pulls(party, source, MIB, 1000, 8)),
        Workload("pull 256 MiB", "MiB", lambda party: pulls(party, source, 256 * MIB, 4, 1)),
        Workload(
            "pull 256 MiB, 4 at once", "MiB", lambda party: pulls(party, source, 256 * MIB, 8, 4)
        ),
        Workload("first pull, 256 MiB", "MiB", lambda party: first_pull(party, source, 256 * MIB)),
        Workload(
            "push and first pull", "MiB", lambda party: push_and_pull(party, source, 256 * MIB)
        ),
    ]


def memory(party: Party, source: Path) -> int:
    """Peak resident bytes while four blobs of 1 GiB come in, two at once, and go out again."""
    Path(f"/proc/{party.process}/clear_refs").write_text("5")
    pushes(party, source, 1 << 30, 4, 2)
    pulls(party, source, 1 << 30, 2, 2)
    return peak_bytes(party.process)


@contextmanager
def parties(work: Path) -> Iterator[list[Party]]:
    with docker_registry(work) as theirs, node(work / "node") as ours:
        listeners = subprocess.run(
            ["ss", "-ltnpH", f"sport = :{theirs.port}"], capture_output=True, text=True, check=True
        )
        found = re.search(r"pid=(\d+)", listeners.stdout)
        assert found
        both = [
            Party("docker-registry", theirs.address, int(found[1])),
            Party("shipline", ours.address, ours.process.pid),
        ]
        for party in both:
            schedule_alike(party.process)
        yield both


def schedule_alike(process: int) -> None:
    """Give a process of another session the share of the processors that this one has (sched(7),
    the autogroup feature).
    """
    mine = Path("/proc/self/autogroup")
    if mine.exists():
        Path(f"/proc/{process}/autogroup").write_text(mine.read_text().split()[-1])


def compare(both: list[Party], workload: Workload, rounds: int) -> dict[str, Figure]:
    figures: dict[str, list[Figure]] = {party.name: [] for party in both}
    for turn in range(rounds):
        for party in both if turn % 2 == 0 else reversed(both):
            subprocess.run(["sync"], check=True)
            time.sleep(0.5)
            figures[party.name].append(workload.run(party))
    return {
        name: Figure(
            statistics.median(figure.rate for figure in found),
            statistics.median(figure.cpu_s for figure in found),
        )
        for name, found in figures.items()
    }


def show(workload: Workload, found: dict[str, Figure]) -> dict[str, object]:
    theirs, ours = found["docker-registry"], found["shipline"]
    ratio = ours.rate / theirs.rate
    print(
        f"{workload.name:<26}{theirs.rate:>10,.0f}{ours.rate:>10,.0f} {workload.unit + '/s':<11}"
        f"{ratio:>6.1f}x{theirs.cpu_s:>10.2f}{ours.cpu_s:>8.2f}",
        flush=True,
    )
    return {
        "workload": workload.name,
        "unit": f"{workload.unit}/s",
        "docker-registry": theirs.rate,
        "shipline": ours.rate,
        "ratio": ratio,
        "cpu_ms_per_unit": {"docker-registry": theirs.cpu_s, "shipline": ours.cpu_s},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-registry")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each wrk run")
    parser.add_argument("--only", default="", help="a part of the names of the workloads")
    parser.add_argument("--work", type=directory, help="a directory on the disk to measure")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16_384), most))
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        source = work / "noise"
        with source.open("wb") as file:
            for _ in range(1024 if not options.only else 256):
                file.write(os.urandom(MIB))
        results = _run(work, source, options)
    place = ROOT / "bench" / "results" / "registry.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {place.relative_to(ROOT)}")


def _run(work: Path, source: Path, options: argparse.Namespace) -> dict[str, object]:
    with parties(work) as both:
        print(f"{'':<26}{'docker-r.':>10}{'shipline':>10}{'':<12}{'ratio':>7}{'CPU ms a unit':>18}")
        rows = [
            show(workload, compare(both, workload, options.rounds))
            for workload in workloads(source, options.seconds)
            if options.only in workload.name
        ]
        peaks = {} if options.only else {party.name: memory(party, source) for party in both}
        crowds = {
            party.name: crowd(party, source, "/healthz" if party.name == "shipline" else "/v2/")
            for party in both
            if options.only in "crowd"
        }
    for party_name, peak in peaks.items():
        print(f"memory while 1 GiB blobs stream, {party_name}: {peak / MIB:,.0f} MiB")
    return {"rounds": options.rounds, "rows": rows, "peak_bytes": peaks, "crowd": crowds}


if __name__ == "__main__":
    main()
