"""`shipline build --push` beside `docker buildx build --push`: same run, registry and Dockerfile.

    make bench                     the workloads of the README's table, and its plot
    make bench BENCH='--files 5000 --bytes 100000000 --rounds 1'

Every run starts on a settled machine: nothing dirty, daemons idle, the context in the page cache.
BuildKit goes second in each pair, as it leaves several times the size of the tree in the cache.
Prints medians, ratios, CPU time and peak memory, and writes bench/results/build.json and the plot
docs/build-time.svg. Needs root, the Debian packages docker.io, docker-buildx, docker-registry and
buildah, and the npm registry for the Node.js example.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
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
from bench.plot import plot  # noqa: E402
from bench.tree import BYTES, FILES, make_tree  # noqa: E402
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


def contexts(place: Path, files: int, size: int) -> tuple[Path, Path]:
    return tree(place / "big", files, size), small(place / "small", SMALL)


def tree(place: Path, files: int, size: int) -> Path:
    """A context of so many files and bytes."""
    (place / "tree").mkdir(parents=True)
    (place / "Dockerfile").write_text(BIG)
    count, total = make_tree(place / "tree", files=files, size=size)
    print(f"tree: {count} files, {total / 1e9:.2f} GB", flush=True)
    return place


def small(place: Path, dockerfile: str) -> Path:
    """A context with one file."""
    (place / "app").mkdir(parents=True)
    (place / "app" / "run").write_text("#!/bin/sh\necho hello\n")
    (place / "Dockerfile").write_text(dockerfile)
    return place


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
        big, small_ = contexts(place, arguments.files, arguments.bytes)
        registry = stack.enter_context(docker_registry(place))
        push_base_images(registry, "busybox", "node")
        docker = stack.enter_context(dockerd(place, registry))
        daemon = int((place / "docker" / "pid").read_text())
        bench = Bench(registry, docker, descendants(daemon), place / "home")
        rows = run(bench, big, small_, place, arguments.rounds)
        if arguments.files > max(SIZES):
            sizes = by_size(bench, place, arguments.files, arguments.bytes, rows[0])
            (ROOT / "docs" / "build-time.svg").write_text(plot(sizes))
            rows += sizes[:-1]
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    (results / "build.json").write_text(json.dumps(rows, indent=2) + "\n")


def run(bench: Bench, big: Path, small_: Path, place: Path, rounds: int) -> list[dict[str, object]]:
    print(f"{'':<22}{'BuildKit':>11}{'shipline':>11}{'ratio':>9}"
          f"{'CPU':>11}{'CPU':>10}{'peak':>11}{'peak':>10}")  # fmt: skip

    def one_file(number: int) -> None:
        victim = next(path for path in sorted((big / "tree").rglob("*")) if path.is_file())
        with victim.open("ab") as file:
            file.write(b"changed %d\n" % number)

    rows = [
        show("big, cold", *cold(bench, big, "big", rounds), 20),
        show("big, nothing changed", *warm(bench, big, f"big{rounds - 1}", 3), 4),
        show("big, one file changed", *warm(bench, big, "big", rounds, one_file), 30),
        show("small, cold", *cold(bench, small_, "small", 3), 2),
        show("small, nothing changed", *warm(bench, small_, "small2", 7), 2.5),
        show("small, shared cache", *shared(bench, small_, "shared", 5), 1),
    ]
    return [*rows, *more(bench, small_, place)]


def more(bench: Bench, small_: Path, place: Path) -> list[dict[str, object]]:
    """Workloads of other shapes, and buildah as the peer."""
    many, cached, node = (
        small(place / "many", MANY),
        small(place / "cached", CACHED),
        place / "node",
    )
    shutil.copytree(ROOT / "examples" / "node-app", node)
    text = (node / "Dockerfile").read_text()  # with the built-in frontend, not one from Docker Hub
    (node / "Dockerfile").write_text(text.replace("# syntax=", "# ", 1))

    def another(number: int) -> None:
        (cached / "app" / "run").write_text(f"line {number}\n")

    def source(number: int) -> None:
        with (node / "src" / "server.js").open("a") as file:
            file.write(f"// changed {number}\n")

    rows = [show(f"{STAGES} stages, cold", *cold(bench, many, "many", 3), 1)]
    bench.forget()
    warm(bench, cached, "cached", 1)
    rows.append(show("cache mount, changed", *warm(bench, cached, "cached", 5, another), 1))
    rows.append(show("Node.js, cold", *cold(bench, node, "node", 1), 1))
    rows.append(show("Node.js, changed", *warm(bench, node, "node0", 3, source), 1))
    print(f"{'':<22}{'buildah':>11}")
    rows.append(show("small, cold", *cold(bench, small_, "b", 3, bench.buildah), 1))
    rows.append(
        show("small, nothing changed", *warm(bench, small_, "b2", 3, peer=bench.buildah), 1)
    )
    return [*rows[:-2], *({**row, "peer": "buildah"} for row in rows[-2:])]


def by_size(
    bench: Bench, place: Path, files: int, size: int, largest: dict[str, object]
) -> list[dict[str, object]]:
    """Cold builds of smaller trees, and the `largest`, which was measured before."""
    rows = []
    for count in SIZES:
        context = tree(place / f"tree{count}", count, size * count // files)
        costs = cold(bench, context, f"tree{count}", 1)
        rows.append(show(f"{count} files, cold", *costs, 1) | {"files": count})
    return [*rows, largest | {"files": files}]


if __name__ == "__main__":
    main()
