#!/usr/bin/env python3
"""Build cases with BuildKit and with shipline, and print what differs.

    python tests/conformance/dockerfile/compare.py [--peer-only | --through-docker | --record]
        [--jobs N] [CASE...]

With --record what BuildKit makes of the cases is written to `recorded.txt` (see `corpus.recorded`).
With --through-docker shipline builds by `--builder docker`, in the same engine.
CASE is a name or a pattern (`copy-*`); none means all. Starts a registry and an engine, or uses
those that SHIPLINE_TEST_REGISTRY (HOST:PORT) and SHIPLINE_TEST_DOCKER_HOST (unix://...) name:
the registry must be the engine's mirror and hold the base images. `--serve` starts such a pair,
prints the two variables and waits. What BuildKit made of a case is kept in the cache directory
until the case changes.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parents[1])]

from corpus import (  # noqa: E402
    SLIGHT,
    Builder,
    BuildKit,
    Case,
    Outcome,
    Shipline,
    load_all,
    outcome_digest,
    read_record,
    recordable,
    verdict,
    write_record,
)
from corpus.image import describe  # noqa: E402

from peers import (  # noqa: E402
    Docker,
    Registry,
    docker_registry,
    dockerd,
    engine_version,
    git_server,
    newest,
    push_base_images,
)
from peers.bases import cache_directory  # noqa: E402
from shipline.tasks import ordered_map  # noqa: E402


@contextmanager
def peers(work: Path) -> Iterator[tuple[Docker, Registry]]:
    """The running pair that the environment names, or a new one below `work`."""
    address = os.environ.get("SHIPLINE_TEST_REGISTRY")
    host = os.environ.get("SHIPLINE_TEST_DOCKER_HOST")
    if address and host:
        name, _, port = address.partition(":")
        yield (
            Docker(host, work / "client", programs=newest()),
            Registry(name, int(port), work / "log", work),
        )
        return
    with docker_registry(work) as registry:
        push_base_images(registry, "busybox", "alpine", "usrmerge")
        with dockerd(work, registry, programs=newest()) as docker:
            yield docker, registry


@dataclass(frozen=True)
class Remembered:
    """A builder whose outcomes are kept on disk until the case or the corpus's code changes."""

    builder: BuildKit

    @cached_property
    def version(self) -> str:
        return engine_version(self.builder.docker.programs)

    def build(self, case: Case) -> Outcome:
        modules = ("builders", "case", "context", "entry", "image")
        code = b"".join((_HERE / "corpus" / f"{name}.py").read_bytes() for name in modules)
        key = hashlib.sha256(code + f"{self.version}{case.digest}".encode()).hexdigest()
        path = cache_directory() / "buildkit" / key
        if path.exists() and not case.images and not case.served:
            outcome = pickle.loads(path.read_bytes())
            assert isinstance(outcome, Outcome)
            return outcome
        outcome = self.builder.build(case)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(pickle.dumps(outcome))
        temporary.rename(path)
        return outcome


def chosen(patterns: list[str]) -> list[Case]:
    cases = load_all()
    names = [n for n in cases if any(fnmatch.fnmatch(n, p) for p in patterns or ["*"])]
    if not names:
        raise SystemExit(f"no case matches {' '.join(patterns)}")
    return [cases[name] for name in names]


def show(case: Case, outcome: Outcome) -> None:
    """Print what BuildKit made of a case."""
    print(f"# {case.name}")
    print("\n".join(line for image in outcome.images.values() for line in describe(image)))
    if not outcome.ok:
        print(outcome.output)


def run(cases: list[Case], jobs: int, peer: Builder, own: Builder | None) -> int:
    """Build and compare; prints a report and returns how many cases are not as they should be."""

    def one(case: Case) -> tuple[Case, Outcome | None, list[str], list[str]]:
        want = peer.build(case) if case.for_peer else None
        got = own.build(case) if own else None
        problems = verdict(case, want, got)
        return case, want, problems, [] if problems else verdict(case, want, got, kinds=SLIGHT)

    bad, start = 0, time.monotonic()
    for case, want, problems, slight in ordered_map(one, cases, workers=jobs, ahead=0):
        bad += bool(problems)
        state = "FAIL" if problems else "ok"
        took = f"{want.seconds:.1f} s" if want else "not for the peer"
        print(f"{state:5}{case.name} ({took})", flush=True)
        for problem in [*problems, *slight]:
            print("     " + problem.replace("\n", "\n     "), flush=True)
    print(f"{len(cases)} cases, {bad} wrong, {time.monotonic() - start:.0f} s")
    return bad


def record(cases: list[Case], jobs: int, peer: Remembered) -> int:
    """Write what the peer makes of the cases; how many it does not build as they say."""
    found, bad = read_record(), 0
    chosen = [case for case in cases if recordable(case)]
    for case, outcome in zip(chosen, ordered_map(peer.build, chosen, workers=jobs), strict=True):
        wrong = verdict(case, outcome, None)
        bad += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok':5}{case.name}", *wrong, flush=True)
        if not wrong:
            found[case.name] = outcome_digest(case, outcome, peer.version)
            write_record(found)
    write_record({name: digest for name, digest in found.items() if name in load_all()})
    return bad


def serve(work: Path) -> None:
    with peers(work) as (docker, registry):
        print(f"export SHIPLINE_TEST_REGISTRY={registry.address}")
        print(f"export SHIPLINE_TEST_DOCKER_HOST={docker.host}", flush=True)
        signal.pause()


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare images of BuildKit and of shipline.")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--peer-only", action="store_true", help="build with BuildKit only")
    parser.add_argument(
        "--through-docker", action="store_true", help="shipline builds with --builder docker"
    )
    parser.add_argument("--show", action="store_true", help="print what BuildKit made")
    parser.add_argument("--record", action="store_true", help="write what BuildKit made")
    parser.add_argument("--serve", action="store_true", help="start the peers and wait")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # so that the peers end, too
    with TemporaryDirectory(prefix="compare-") as temporary:
        work = Path(temporary)
        if arguments.serve:
            serve(work)
            return 0
        with peers(work) as (docker, registry), git_server(work / "served") as server:
            variables = {"DOCKER_HOST": docker.host, "BUILDX_BUILDER": "docker"}
            through = variables if arguments.through_docker else {}
            own = Shipline(registry, work / "shipline", server, through=through)
            peer = BuildKit(docker, registry, server)
            cases = chosen(arguments.cases)
            if through:
                cases = [case for case in cases if case.for_peer]
            if arguments.show:
                for case in cases:
                    show(case, peer.build(case))
                return 0
            if arguments.record:
                return min(record(cases, arguments.jobs, Remembered(peer)), 1)
            if arguments.peer_only:
                return min(run(cases, arguments.jobs, peer, None), 1)
            return min(run(cases, arguments.jobs, Remembered(peer), own), 1)


if __name__ == "__main__":
    sys.exit(main())
