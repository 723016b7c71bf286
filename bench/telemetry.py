"""What telemetry costs: a build with and without it, and a node's manifests with and without spans.

    python -m bench.telemetry [--rounds N] [--seconds N]

The variants of each run in turn, in another order each round; printed are medians, and their ratio
to the run without telemetry. CPU seconds say more than the time where the machine is busy. The
receiver is one of the tests, in this process: its own CPU time does not count.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bench.meter import Cost, measure
from bench.registry import REPOSITORY, Figure, Party, manifests, run_wrk
from nodes import node
from receivers import loki, otlp_over_http
from roots import busybox_root
from spec_client import MANIFEST

_STEPS, _LINES = 20, 500
_FEW_STEPS, _FEW_LINES, _FEW_S, _FILE = 6, 50, 2.0, 100 << 20  # an ordinary build
_LAYER = 8 << 20  # bytes
_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
T = TypeVar("T")
_CLI = [sys.executable, "-m", "shipline"]


def talkative(context: Path) -> Iterator[str]:
    """Steps that print, and layers that are compressed and pushed."""
    for number in range(_STEPS):
        (context / f"data{number}").write_bytes(os.urandom(_LAYER // 2).hex().encode())
        print_all = f"for i in $(seq {_LINES}); do echo step {number} line $i; done"
        yield f"COPY data{number} /"
        yield f"RUN {print_all}; md5sum /data{number} > /sum"


def ordinary(context: Path) -> Iterator[str]:
    """A few steps that take their time and print some lines, and 100 MB of files."""
    (context / "data").write_bytes(os.urandom(_FILE // 2).hex().encode())
    yield "COPY data /"
    for number in range(_FEW_STEPS):
        slowly = f"sleep {_FEW_S / _FEW_LINES}"
        yield f"RUN for i in $(seq {_FEW_LINES}); do echo step {number} line $i; {slowly}; done"


def builds(work: Path, what: str, steps: Callable[[Path], Iterator[str]], rounds: int) -> None:
    """A build of these steps."""
    context = work / "context"
    context.mkdir(parents=True)
    shutil.copytree(busybox_root(), context / "root", symlinks=True)
    (context / "Dockerfile").write_text(
        "\n".join(["FROM scratch", "COPY root /", *steps(context)]) + "\n"
    )
    with node(work / "registry") as target, otlp_over_http() as receiver, loki() as logs:
        variants: dict[str, Mapping[str, str]] = {
            "without": {},
            "OTLP traces and logs": receiver.environ(),
            "OTLP and Loki": {**receiver.environ(), "SHIPLINE_LOKI": logs.url},
        }

        def run(variant: str, number: int) -> Cost:
            home = work / "home"
            shutil.rmtree(home, ignore_errors=True)
            name = f"{target.address}/bench/{number}-{len(variant)}:v1"
            words = ["build", "--progress", "plain", "--push", "-t", name, str(context)]
            kept = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
            own = {"SHIPLINE_HOME": str(home), "DOCKER_CONFIG": str(home)}
            return measure([*_CLI, *words], {**kept, **own, **variants[variant]})

        found = in_turn(list(variants), run, rounds)
        spans, entries = len(receiver.spans), len(logs.entries)
    show(what, {name: [one.wall_s for one in costs] for name, costs in found.items()}, "s")
    show(f"{what}, CPU", {name: [one.cpu_s for one in costs] for name, costs in found.items()}, "s")
    print(f"{spans} spans and {entries} entries of Loki arrived")


@contextmanager
def serving(work: Path, environ: Mapping[str, str]) -> Iterator[Party]:
    """A node of the command line."""
    work.mkdir()
    words = ["registry", "serve", "--data", str(work / "data"), "--listen", "127.0.0.1:0"]
    own = {"SHIPLINE_HOME": str(work / "home"), **environ}
    with (work / "log").open("w") as log:
        process = subprocess.Popen([*_CLI, *words], env={**os.environ, **own}, stderr=log)
    try:
        while not (found := re.search(r" on http://(\S+)\n", (work / "log").read_text())):
            time.sleep(0.05)
        yield Party(work.name, found[1], process.pid)
    finally:
        process.terminate()
        process.wait()


def requests(work: Path, rounds: int, seconds: int) -> None:
    """GET of a manifest."""
    with otlp_over_http() as receiver, ExitStack() as stack:
        parties = {
            name: stack.enter_context(serving(work / f"node{number}", environ))
            for number, (name, environ) in enumerate(
                {"without": {}, "spans": receiver.environ()}.items()
            )
        }
        for party in parties.values():
            manifests(party, 1)

        def run(variant: str, _: int) -> Figure:
            traced = ["--header", f"traceparent: {_PARENT}"] if "every" in variant else []
            party = parties["without" if variant == "without" else "spans"]
            accept = ["--header", f"Accept: {MANIFEST}", *traced]
            return run_wrk(party, f"/v2/{REPOSITORY}/manifests/v1", seconds, accept)

        found = in_turn(["without", "spans", "spans, every client is traced"], run, rounds)
    rates = {name: [one.rate for one in figures] for name, figures in found.items()}
    show("manifest GET", rates, "/s")
    cpu = {name: [one.cpu_s for one in figures] for name, figures in found.items()}
    show("manifest GET, CPU", cpu, "ms")
    print(f"{len(receiver.spans)} spans arrived")


def in_turn(variants: list[str], run: Callable[[str, int], T], rounds: int) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {name: [] for name in variants}
    for number in range(rounds):
        for name in variants if number % 2 == 0 else reversed(variants):
            found[name].append(run(name, number))
    return found


def show(what: str, found: Mapping[str, list[float]], unit: str) -> None:
    first = statistics.median(next(iter(found.values())))
    for name, values in found.items():
        ratio = statistics.median(
            value / other for value, other in zip(values, next(iter(found.values())), strict=True)
        )
        middle = statistics.median(values)
        print(f"{what:<20}{name:<32}{middle:>10.3f} {unit:<3}{middle / first:>8.3f}{ratio:>8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--only", choices=("builds", "requests"))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if chosen.only != "requests":
            builds(Path(place) / "1", "10,000 lines", talkative, chosen.rounds)
            builds(Path(place) / "2", "ordinary build", ordinary, chosen.rounds)
        if chosen.only != "builds":
            requests(Path(place), chosen.rounds, chosen.seconds)


if __name__ == "__main__":
    main()
