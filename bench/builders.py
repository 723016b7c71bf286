"""Builds on 1, 2 and 4 nodes: one build of four platforms, and forty targets of a bake file.

    make bench-builders
    make bench-builders BENCH='--percent 40 --builds 10 --only many'

Each node is a Docker engine in a network namespace of its own, with its steps in a control group
that has a part of one processor: so what more nodes do to the time is seen on a machine with few
processors. The work of a step is a loop of a shell. `docker buildx` builds on the same nodes, from
the same instance files, in the same run; every step runs anew. Prints seconds, and how many times
faster than on one node. Needs root, control groups (version 1 or 2), and the packages of `make
bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from peers import Docker, Registry, docker_registry, dockerd, newest, push_base_images  # noqa: E402
from peers.buildkit_relay import relay  # noqa: E402

PLATFORMS = ("linux/amd64", "linux/arm64", "linux/386", "linux/arm/v7")
COUNTS = (1, 2, 4)  # nodes
DOCKERFILE = """\
FROM --platform=$BUILDPLATFORM busybox AS work
ARG ROUND LOOPS TARGETPLATFORM
RUN echo $ROUND $TARGETPLATFORM > /made; i=0; while [ $i -lt $LOOPS ]; do i=$((i+1)); done
FROM scratch
COPY --from=work /made /made
"""
CPU = Path("/sys/fs/cgroup/cpu")  # version 1
UNIFIED = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


@contextmanager
def limited(name: str, percent: int) -> Iterator[Path]:
    """A control group with `percent` of a processor for all that is in it."""
    old = (CPU / "cpu.cfs_quota_us").exists()
    place = (CPU if old else UNIFIED) / name
    if not old:
        (UNIFIED / "cgroup.subtree_control").write_text("+cpu")
    (place / "engine").mkdir(parents=True)
    try:
        quota = PERIOD_US * percent // 100
        if old:
            (place / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (place / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        yield place
    finally:
        for path in sorted(place.rglob("*"), reverse=True):
            with suppress(OSError):  # files go with their directories
                path.rmdir()
        place.rmdir()


@dataclass(frozen=True)
class Bench:
    """The nodes by their ports, and both programs."""

    registry: Registry
    docker: Docker
    context: Path
    environment: Mapping[str, str]
    ports: Sequence[int]

    def create(self, name: str, nodes: int, *, fixed: bool) -> None:
        """A builder with the first nodes; `fixed` gives each its share of the platforms."""
        share = len(PLATFORMS) // nodes
        for index, port in enumerate(self.ports[:nodes]):
            words = ["builder", "create", "--name", name, f"tcp://127.0.0.1:{port}"]
            words += ["--append"] if index else []
            platforms = PLATFORMS[index * share : (index + 1) * share]
            words += ["--platform", ",".join(platforms)] if fixed else []
            subprocess.run([*_shipline(), *words], env=self._environment("shipline"), check=True)

    def run(self, who: str, command: str, builder: str, *words: str) -> float:
        """Seconds for a command of either program; it fails with what that said."""
        program = _shipline() if who == "shipline" else [str(self.program), "buildx"]
        begun = time.monotonic()
        done = subprocess.run(
            [*program, command, "--builder", builder, *words],
            env=self._environment(who),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            raise SystemExit(f"{done.args} failed:\n{done.stdout.decode(errors='replace')}")
        return time.monotonic() - begun

    @property
    def program(self) -> Path:
        return Path(newest()["PATH"].partition(os.pathsep)[0]) / "docker"

    def _environment(self, who: str) -> dict[str, str]:
        own = self.docker.environment if who == "buildx" else os.environ
        return {**own, **self.environment, "BUILDKIT_PROGRESS": "plain"}

    def one(self, who: str, nodes: int, loops: int) -> float:
        """Seconds for a build of all platforms, for which nothing of an earlier one is used."""
        own = os.urandom(8).hex()
        words = ["--push", "-t", f"{self.registry.address}/bench/{own}", "--network=none"]
        words += [f"--platform={','.join(PLATFORMS)}", "--provenance=false"]
        words += [f"--build-arg=ROUND={own}", f"--build-arg=LOOPS={loops}", str(self.context)]
        return self.run(who, "build", f"farm{nodes}", *words)

    def many(self, who: str, nodes: int, loops: int, builds: int) -> float:
        """Seconds for `builds` targets of one bake file; the results stay in the caches."""
        targets = {
            f"build-{number}": {
                "context": str(self.context),
                "args": {"ROUND": os.urandom(8).hex(), "LOOPS": str(loops)},
                "network": "none",
                "output": ["type=cacheonly"],
                "attest": ["type=provenance,disabled=true"],
            }
            for number in range(builds)
        }
        file = self.context.with_name("docker-bake.json")
        file.write_text(
            json.dumps({"group": {"default": {"targets": [*targets]}}, "target": targets})
        )
        return self.run(who, "bake", f"pool{nodes}", "--allow=fs=*", "-f", str(file))


def _shipline() -> list[str]:
    return [sys.executable, "-m", "shipline"]


@contextmanager
def running(work: Path, percent: int, counts: Sequence[int]) -> Iterator[Bench]:
    with ExitStack() as stack:
        registry = stack.enter_context(docker_registry(work))
        push_base_images(registry, "busybox")
        nodes = []
        for index in range(max(counts)):
            group = stack.enter_context(limited(f"bench-{os.getpid()}-{index}", percent))
            node = dockerd(
                work, registry, name=f"node{index}", programs=newest(), bridged=True, cgroup=group
            )
            nodes.append(stack.enter_context(node))
        ports = [stack.enter_context(relay(node.host.removeprefix("unix://"))) for node in nodes]
        context = work / "context"
        context.mkdir()
        (context / "Dockerfile").write_text(DOCKERFILE)
        environment = {
            "BUILDX_CONFIG": str(work / "buildx"),
            "SHIPLINE_HOME": str(work / "home"),
            "DOCKER_CONFIG": str(nodes[0].config),
        }
        bench = Bench(registry, nodes[0], context, environment, ports)
        for count in counts:
            bench.create(f"farm{count}", count, fixed=True)
            bench.create(f"pool{count}", count, fixed=False)
        for count in counts:  # base images, and what else is done once
            bench.one("shipline", count, 1)
        yield bench


def show(title: str, seconds: Mapping[str, Mapping[int, float]]) -> None:
    """A table, as in the documents: seconds, and how much faster than on the fewest nodes."""
    counts = list(next(iter(seconds.values())))
    print(f"| {title} | {' | '.join(f'{count} nodes' for count in counts)} |")
    print("|---" * (len(counts) + 1) + "|")
    for who, found in seconds.items():
        first = found[counts[0]]
        cells = (f"{one:.1f} s ({first / one:.1f}x)" for one in found.values())
        print(f"| `{who}` | {' | '.join(cells)} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--percent", type=int, default=25, help="of a processor, for each node")
    parser.add_argument("--builds", type=int, default=40, help="targets of the bake file")
    parser.add_argument("--loops", type=int, default=1_000_000, help="of one step of the one build")
    parser.add_argument("--nodes", default="1,2,4")
    parser.add_argument("--only", choices=("one", "many"))
    arguments = parser.parse_args()
    counts = [int(one) for one in arguments.nodes.split(",")]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as work,
        running(Path(work), arguments.percent, counts) as bench,
    ):
        parties = ("shipline", "buildx")
        if arguments.only != "many":
            one = {
                who: {count: bench.one(who, count, arguments.loops) for count in counts}
                for who in parties
            }
            show(f"one build of {len(PLATFORMS)} platforms", one)
        if arguments.only != "one":
            many = {
                who: {
                    count: bench.many(who, count, arguments.loops // 10, arguments.builds)
                    for count in counts
                }
                for who in parties
            }
            show(f"{arguments.builds} targets of a bake file", many)


if __name__ == "__main__":
    main()
