"""`shipline build --push` beside `docker buildx build --push`: same run, registry and Dockerfile.

    make bench                     the workloads of the README's table
    make bench BENCH='--files 5000 --bytes 100000000 --rounds 1'

Every run starts on a settled machine: nothing dirty, daemons idle, the context in the page cache.
BuildKit goes second in each pair, as it leaves several times the size of the tree in the cache.
Prints ratios, CPU time and peak memory, and writes bench/results/build.json. Needs root and the
Debian packages docker.io, docker-buildx and docker-registry.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from bench.meter import Cost, descendants, measure, read_all, settle  # noqa: E402
from bench.tree import BYTES, FILES, make_tree  # noqa: E402
from peers import Docker, Registry, docker_registry, dockerd, push_base_images  # noqa: E402

PLATFORMS = "linux/amd64,linux/arm64"
BIG = "FROM busybox\nCOPY tree /tree\nRUN echo hi > /hi\n"
SMALL = 'FROM busybox\nWORKDIR /app\nCOPY app /app\nRUN echo hi > /hi\nCMD ["/app/run"]\n'


@dataclass(frozen=True)
class Bench:
    """The two builders, ready to be timed."""

    registry: Registry
    docker: Docker
    daemons: list[int]
    home: Path

    def buildkit(self, context: Path, name: str, cache: str = "") -> Cost:
        command = ["docker", "buildx", "build", "--network=host", "--provenance=false"]
        words = [*self._cached(cache, "docker"), *self._common(context, f"{name}-docker")]
        return self._run([*command, *words], context, self.daemons)

    def shipline(self, context: Path, name: str, cache: str = "") -> Cost:
        command = [sys.executable, "-m", "shipline", "build"]
        words = [*self._cached(cache, "shipline"), *self._common(context, f"{name}-shipline")]
        return self._run([*command, *words], context, [])

    def forget(self) -> None:
        """Empty both caches."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.docker.run("buildx", "prune", "--all", "--force")

    def _run(self, command: list[str], context: Path, daemons: list[int]) -> Cost:
        environment = self.docker.environment | {
            "SHIPLINE_HOME": str(self.home),
            "SHIPLINE_MIRRORS": f"docker.io={self.registry.url}",
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program is compiled
        settle(self.daemons)
        read_all(context)
        return measure(command, environment, daemons)

    def _cached(self, flag: str, builder: str) -> list[str]:
        """The words for a cache in the registry that is the builder's own."""
        ref = f"type=registry,ref={self.registry.address}/bench/cache:{builder}"
        more = ",mode=max" if flag == "--cache-to" else ""
        return [flag, ref + more] if flag else []

    def _common(self, context: Path, name: str) -> list[str]:
        tag = f"{self.registry.address}/bench/{name}:latest"
        return ["--platform", PLATFORMS, "--push", "-t", tag, str(context)]


def cold(bench: Bench, context: Path, name: str, rounds: int) -> tuple[list[Cost], list[Cost]]:
    ours, theirs = [], []
    for number in range(rounds):
        bench.forget()
        ours.append(bench.shipline(context, f"{name}{number}"))
        theirs.append(bench.buildkit(context, f"{name}{number}"))
    return ours, theirs


def warm(
    bench: Bench, context: Path, name: str, rounds: int, change: Callable[[int], None]
) -> tuple[list[Cost], list[Cost]]:
    """Both builders again, after `change`."""
    ours, theirs = [], []
    for number in range(rounds):
        change(number)
        ours.append(bench.shipline(context, name))
        theirs.append(bench.buildkit(context, name))
    return ours, theirs


def shared(bench: Bench, context: Path, name: str, rounds: int) -> tuple[list[Cost], list[Cost]]:
    """Both builders on machines that have nothing but the cache of another machine."""
    bench.forget()
    bench.shipline(context, name, "--cache-to")
    bench.buildkit(context, name, "--cache-to")
    ours, theirs = [], []
    for number in range(rounds):
        bench.forget()
        ours.append(bench.shipline(context, f"{name}{number}", "--cache-from"))
        theirs.append(bench.buildkit(context, f"{name}{number}", "--cache-from"))
    return ours, theirs


def contexts(place: Path, files: int, size: int) -> tuple[Path, Path]:
    big, small = place / "big", place / "small"
    (small / "app").mkdir(parents=True)
    (small / "app" / "run").write_text("#!/bin/sh\necho hello\n")
    (small / "Dockerfile").write_text(SMALL)
    (big / "tree").mkdir(parents=True)
    (big / "Dockerfile").write_text(BIG)
    count, total = make_tree(big / "tree", files=files, size=size)
    print(f"tree: {count} files, {total / 1e9:.2f} GB", flush=True)
    return big, small


def show(workload: str, ours: list[Cost], theirs: list[Cost], budget: float) -> dict[str, object]:
    """Print one row; the ratio is the median of the pairs."""
    ratios = [b.wall_s / a.wall_s for a, b in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    median = {
        name: {key: statistics.median(cost.json()[key] for cost in costs) for key in ours[0].json()}
        for name, costs in (("shipline", ours), ("buildkit", theirs))
    }
    a, b = median["shipline"], median["buildkit"]
    print(
        f"{workload:<22}{b['wall_s']:>9.2f} s{a['wall_s']:>9.2f} s{ratio:>8.1f}x"
        f"{b['cpu_s']:>9.1f} s{a['cpu_s']:>8.1f} s"
        f"{b['peak_bytes'] / 1e6:>8.0f} MB{a['peak_bytes'] / 1e6:>7.0f} MB   goal {budget:g}x",
        flush=True,
    )
    return {"workload": workload, "ratio": ratio, "goal": budget, "ratios": ratios, **median}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--bytes", type=int, default=BYTES)
    parser.add_argument("--rounds", type=int, default=1, help="of the cold and changed builds")
    parser.add_argument("--work", type=Path, default=None, help="directory with enough space")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("the benchmark starts a Docker engine: run it as root")
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.work)))
        big, small = contexts(place, arguments.files, arguments.bytes)
        registry = stack.enter_context(docker_registry(place))
        push_base_images(registry, "busybox")
        docker = stack.enter_context(dockerd(place, registry))
        daemon = int((place / "docker" / "pid").read_text())
        bench = Bench(registry, docker, descendants(daemon), place / "home")
        rows = run(bench, big, small, arguments.rounds)
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    (results / "build.json").write_text(json.dumps(rows, indent=2) + "\n")


def run(bench: Bench, big: Path, small: Path, rounds: int) -> list[dict[str, object]]:
    print(f"{'':<22}{'BuildKit':>11}{'shipline':>11}{'ratio':>9}"
          f"{'CPU':>11}{'CPU':>10}{'peak':>11}{'peak':>10}")  # fmt: skip

    def same(number: int) -> None:
        pass

    def one_file(number: int) -> None:
        victim = next(path for path in sorted((big / "tree").rglob("*")) if path.is_file())
        with victim.open("ab") as file:
            file.write(b"changed %d\n" % number)

    return [
        show("big, cold", *cold(bench, big, "big", rounds), 10),
        show("big, nothing changed", *warm(bench, big, f"big{rounds - 1}", 3, same), 3),
        show("big, one file changed", *warm(bench, big, "big", rounds, one_file), 10),
        show("small, cold", *cold(bench, small, "small", 3), 2),
        show("small, nothing changed", *warm(bench, small, "small2", 7, same), 2),
        show("small, shared cache", *shared(bench, small, "shared", 5), 1),
    ]


if __name__ == "__main__":
    main()
