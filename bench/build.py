"""`shipline build --push` beside `docker buildx build --push`: same run, registry and Dockerfile.

    make bench                     the workloads of the README's table, and its plot
    make bench BENCH='--rows big,small --minutes 12'
    make bench BENCH='--files 2000 --bytes 40000000 --repeats 1'

Every run starts on a settled machine: nothing dirty, daemons idle, the context in the page cache.
BuildKit goes second in each pair, as it leaves several times the size of the tree in the cache.
Prints medians, ratios, CPU time, peak memory, and how long the row took to measure. Each row is
written to bench/results/build.json when it is there, and the plot docs/build-time.svg when all
sizes are. Needs root, the Debian packages docker.io, docker-buildx, docker-registry and buildah,
and the npm registry for the Node.js example.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from bench.meter import Cost, descendants, directory, measure, read_all, settle  # noqa: E402
from bench.plot import plot  # noqa: E402
from bench.tree import BYTES, FILES  # noqa: E402
from peers import Docker, Registry, docker_registry, dockerd, push_base_images  # noqa: E402

PLATFORMS = "linux/amd64,linux/arm64"
BIG = "FROM busybox\nCOPY tree /tree\nRUN echo hi > /hi\n"
STAGES = 20
MANY = (
    "".join(
        f"FROM busybox AS stage{number}\nRUN echo {number} > /made\n" for number in range(STAGES)
    )
    + "FROM busybox\n"
    + "".join(f"COPY --from=stage{number} /made /made/{number}\n" for number in range(STAGES))
)
CACHED = (
    "FROM busybox\nCOPY app /app\nRUN --mount=type=cache,target=/c cat /app/run | tee -a /c/log\n"
)
SIZES = (1_000, 4_000, 16_000)  # files of the smaller trees in the plot
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
        command = [sys.executable, "-m", "shipline", "build", "--network=host"]
        words = [*self._cached(cache, "shipline"), *self._common(context, f"{name}-shipline")]
        return self._run([*command, *words], context, [])

    def buildah(self, context: Path, name: str) -> Cost:
        """Build and push: buildah has a command for each."""
        store = ("--root", f"{self.home}-buildah", "--runroot", f"{self.home}-run")
        login = self.home.parent / "auth.json"
        login.write_text("{}")
        (self.home.parent / "policy.json").write_text(
            '{"default": [{"type": "insecureAcceptAnything"}]}'
        )
        registry = f'location = "{self.registry.address}"\ninsecure = true\n'
        (self.home.parent / "registries.conf").write_text(
            f'[[registry]]\nprefix = "docker.io"\n{registry}[[registry]]\n{registry}'
        )
        image = f"{self.registry.address}/bench/{name}-buildah"
        # else it raises its limits, which needs a capability that containers lack
        limits = [
            f"--ulimit={name}={min(resource.getrlimit(kind))}:{min(resource.getrlimit(kind))}"
            for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
        ]
        words = [
            *("build", "--signature-policy", str(self.home.parent / "policy.json"), *limits),
            *("--layers", "--network=host", "--isolation=chroot", "--platform", PLATFORMS),
            *("--manifest", image, str(context)),
        ]
        push = (
            "manifest",
            "push",
            "--all",
            "--tls-verify=false",
            image,
            f"docker://{image}:latest",
        )
        remove = ("manifest", "rm", image)
        commands = [["buildah", *store, *words] for words in (words, push, remove)]
        script = "\n".join(map(shlex.join, commands))
        return self._run(["env", f"REGISTRY_AUTH_FILE={login}", "sh", "-ec", script], context, [])

    def forget(self) -> None:
        """Empty all caches."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.docker.run("buildx", "prune", "--all", "--force")
        for store in (f"{self.home}-buildah", f"{self.home}-run"):
            shutil.rmtree(store, ignore_errors=True)

    def _run(self, command: list[str], context: Path, daemons: list[int]) -> Cost:
        environment = self.docker.environment | {
            "SHIPLINE_HOME": str(self.home),
            "SHIPLINE_MIRRORS": f"docker.io={self.registry.url}",
            "CONTAINERS_REGISTRIES_CONF": str(self.home.parent / "registries.conf"),
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


Peer = Callable[[Path, str], Cost]


def cold(
    bench: Bench, context: Path, name: str, rounds: int, peer: Peer | None = None
) -> tuple[list[Cost], list[Cost]]:
    """Both builders, without caches; the `peer` is BuildKit unless given."""
    ours, theirs = [], []
    for number in range(rounds):
        bench.forget()
        ours.append(bench.shipline(context, f"{name}{number}"))
        theirs.append((peer or bench.buildkit)(context, f"{name}{number}"))
    return ours, theirs


def warm(
    bench: Bench,
    context: Path,
    name: str,
    rounds: int,
    change: Callable[[int], None] = lambda number: None,
    peer: Peer | None = None,
) -> tuple[list[Cost], list[Cost]]:
    """Both builders again, after `change`."""
    ours, theirs = [], []
    for number in range(rounds):
        change(number)
        ours.append(bench.shipline(context, name))
        theirs.append((peer or bench.buildkit)(context, name))
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


def tree(place: Path, files: int, size: int) -> Path:
    """A context of so many files and bytes."""
    (place / "tree").mkdir(parents=True)
    (place / "Dockerfile").write_text(BIG)
    # in a process of its own: what this one has held counts as the peak of those it starts
    command = [sys.executable, "-m", "bench.tree", str(place / "tree"), str(files), str(size)]
    subprocess.run(command, cwd=ROOT, check=True)
    return place


def small(place: Path, dockerfile: str) -> Path:
    """A context with one file."""
    (place / "app").mkdir(parents=True)
    (place / "app" / "run").write_text("#!/bin/sh\necho hello\n")
    (place / "Dockerfile").write_text(dockerfile)
    return place


class Report:
    """The rows: printed, and written to a file as they come."""

    def __init__(self, file: Path) -> None:
        self.rows: list[dict[str, Any]] = []
        self._file = file
        self._before = time.monotonic()
        file.parent.mkdir(exist_ok=True)
        print(f"{'':<24}{'BuildKit':>10}{'shipline':>10}{'ratio':>8}{'CPU':>10}{'CPU':>8}"
              f"{'peak':>10}{'peak':>8}{'goal':>8}{'took':>8}", flush=True)  # fmt: skip

    def row(
        self, workload: str, costs: tuple[list[Cost], list[Cost]], goal: float = 1, **more: object
    ) -> None:
        """Add the costs of both builders; the ratio is the median of the pairs."""
        ours, theirs = costs
        ratios = [b.wall_s / a.wall_s for a, b in zip(ours, theirs, strict=True)]
        ratio = statistics.median(ratios)
        took = time.monotonic() - self._before
        a, b = _median(ours), _median(theirs)
        print(
            f"{workload:<24}{b['wall_s']:>8.2f} s{a['wall_s']:>8.2f} s{ratio:>7.1f}x"
            f"{b['cpu_s']:>8.1f} s{a['cpu_s']:>6.1f} s{b['peak_bytes'] / 1e6:>7.0f} MB"
            f"{a['peak_bytes'] / 1e6:>5.0f} MB{goal:>7g}x{took:>6.0f} s",
            flush=True,
        )
        measured = {"ratio": ratio, "ratios": ratios, "goal": goal, "took_s": took}
        self.rows.append({"workload": workload, **measured, "shipline": a, "buildkit": b, **more})
        self._file.write_text(json.dumps(self.rows, indent=2) + "\n")
        self._before = time.monotonic()


def _median(costs: list[Cost]) -> dict[str, float]:
    return {key: statistics.median(cost.json()[key] for cost in costs) for key in costs[0].json()}


@dataclass(frozen=True)
class Run:
    """What rows need: `rounds` is how many pairs a row with the big tree has, `repeats` others."""

    bench: Bench
    report: Report
    place: Path
    files: int
    size: int
    rounds: int
    repeats: int


def big(run: Run) -> None:
    """The tree of the README's table."""
    bench, report, rounds = run.bench, run.report, run.rounds
    context = tree(run.place / "big", run.files, run.size)
    costs = cold(bench, context, "big", rounds)
    report.row("big, cold", costs, 20, files=run.files)
    costs = warm(bench, context, f"big{rounds - 1}", run.repeats)
    report.row("big, nothing changed", costs, 4)
    victim = next(path for path in sorted((context / "tree").rglob("*")) if path.is_file())

    def one_file(number: int) -> None:
        with victim.open("ab") as file:
            file.write(b"changed %d\n" % number)

    report.row("big, one file changed", warm(bench, context, "big", rounds, one_file), 30)


def sizes(run: Run) -> None:
    """Cold builds of smaller trees, for the plot."""
    for count in SIZES:
        if count < run.files:
            context = tree(run.place / f"tree{count}", count, run.size * count // run.files)
            costs = cold(run.bench, context, f"tree{count}", 1)
            run.report.row(f"{count} files, cold", costs, files=count)


def few(run: Run) -> None:
    """A context with one file."""
    bench, context = run.bench, small(run.place / "small", SMALL)
    run.report.row("small, cold", cold(bench, context, "small", run.repeats), 2)
    name = f"small{run.repeats - 1}"
    run.report.row("small, nothing changed", warm(bench, context, name, run.repeats), 2.5)
    run.report.row("small, shared cache", shared(bench, context, "shared", run.repeats))


def stages(run: Run) -> None:
    """Many stages that do not need each other."""
    context = small(run.place / "many", MANY)
    run.report.row(f"{STAGES} stages, cold", cold(run.bench, context, "many", run.repeats))


def cache_mount(run: Run) -> None:
    """A step with a cache mount, whose input changes."""
    context = small(run.place / "cached", CACHED)

    def another(number: int) -> None:
        (context / "app" / "run").write_text(f"line {number}\n")

    run.bench.forget()
    warm(run.bench, context, "cached", 1)
    run.report.row("cache mount, changed", warm(run.bench, context, "cached", run.repeats, another))


def node(run: Run) -> None:
    """The example with Node.js."""
    context = run.place / "node"
    shutil.copytree(ROOT / "examples" / "node-app", context)
    dockerfile = context / "Dockerfile"  # with the built-in frontend, not one from Docker Hub
    dockerfile.write_text(dockerfile.read_text().replace("# syntax=", "# ", 1))

    def source(number: int) -> None:
        with (context / "src" / "server.js").open("a") as file:
            file.write(f"// changed {number}\n")

    run.report.row("Node.js, cold", cold(run.bench, context, "node", 1))
    run.report.row("Node.js, changed", warm(run.bench, context, "node0", run.repeats, source))


def buildah(run: Run) -> None:
    """buildah as the peer."""
    bench, context = run.bench, small(run.place / "buildah", SMALL)
    peer, repeats = bench.buildah, run.repeats
    costs = cold(bench, context, "b", repeats, peer)
    run.report.row("buildah: small, cold", costs, peer="buildah")
    costs = warm(bench, context, f"b{repeats - 1}", repeats, peer=peer)
    run.report.row("buildah: nothing changed", costs, peer="buildah")


ROWS: dict[str, Callable[[Run], None]] = {
    "big": big,
    "small": few,
    "sizes": sizes,
    "stages": stages,
    "cache-mount": cache_mount,
    "node": node,
    "buildah": buildah,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--bytes", type=int, default=BYTES)
    parser.add_argument("--rounds", type=int, default=1, help="pairs of a row with the big tree")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of the quick rows")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"which ones: {', '.join(ROWS)}")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no rows after them")
    parser.add_argument("--work", type=directory, default=None, help="directory with enough space")
    arguments = parser.parse_args()
    names = arguments.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no such rows: {', '.join(unknown)}")
    if os.geteuid() != 0:
        sys.exit("the benchmark starts a Docker engine: run it as root")
    deadline = time.monotonic() + arguments.minutes * 60
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.work)))
        registry = stack.enter_context(docker_registry(place))
        push_base_images(registry, "busybox", *(["node"] if "node" in names else []))
        docker = stack.enter_context(dockerd(place, registry))
        daemon = int((place / "docker" / "pid").read_text())
        bench = Bench(registry, docker, descendants(daemon), place / "home")
        report = Report(ROOT / "bench" / "results" / "build.json")
        limits = (arguments.files, arguments.bytes, arguments.rounds, arguments.repeats)
        run = Run(bench, report, place, *limits)
        for name in names:
            if time.monotonic() < deadline:
                ROWS[name](run)
                draw(report.rows)
            else:
                print(f"{name}: left out, as {arguments.minutes:g} minutes are over")


def draw(rows: list[dict[str, Any]]) -> None:
    """The plot, once the big tree and all smaller ones have been measured."""
    by_size = sorted((row for row in rows if "files" in row), key=lambda row: row["files"])
    if len(by_size) > len(SIZES):
        (ROOT / "docs" / "build-time.svg").write_text(plot(by_size))


if __name__ == "__main__":
    main()
