"""Caches in services through the whole program, and with BuildKit on the other side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import Shipline, context
from caches import CachePlace, azure_place, github_place, s3_place
from peers import ActionsCache, Docker, Registry, S3Service, actions_cache, free_port

pytestmark = [pytest.mark.peers, pytest.mark.root]
STEPS = """
FROM busybox
WORKDIR /work
COPY page.html .
RUN dd if=/dev/urandom of=large bs=1M count=9
"""


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    return context(tmp_path / "steps", STEPS, page__html="hello\n")


@pytest.fixture
def second_service() -> Iterator[ActionsCache]:
    with actions_cache() as running:
        yield running


def build(docker: Docker, *words: str | Path) -> str:
    docker.run("builder", "prune", "--all", "--force")
    done = docker.run("buildx", "build", "--network=none", "--output=type=cacheonly", *words)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(params=["s3", "azblob", "gha"])
def place(request: pytest.FixtureRequest) -> CachePlace:
    if request.param == "s3":
        return s3_place(request.getfixturevalue("s3_service"))
    if request.param == "azblob":
        return azure_place(request.getfixturevalue("azure_account"))
    return github_place(request.getfixturevalue("github_cache"))


@pytest.fixture
def machine(tmp_path: Path, base_images: Registry) -> list[Shipline]:
    """Machines that have built nothing."""
    return [Shipline(tmp_path / f"home{number}", base_images.address) for number in range(3)]


PLAIN = ("--progress", "plain", "--network", "none")


def secrets_of(place: CachePlace) -> list[bytes]:
    given = place.attributes(place.port)
    names = ("token", "secret_access_key", "access_key_id")
    return [given[name].encode() for name in names if name in given]


@pytest.mark.parametrize("more", ["", ",compression=zstd,force-compression=true"])
def test_another_machine_runs_nothing_and_no_file_holds_a_secret(
    place: CachePlace, machine: list[Shipline], steps: Path, tmp_path: Path, more: str
) -> None:
    first = machine[0].build(
        *PLAIN, "-o", tmp_path / "one", "--cache-to", f"{place.flag()},mode=max{more}", steps
    )
    assert "WARN" not in first.ok().err, first.err
    second = machine[1].build(*PLAIN, "-o", tmp_path / "two", "--cache-from", place.flag(), steps)
    assert second.ok().err.count("CACHED") >= 3, second.err
    made = [(tmp_path / name / "work/large").read_bytes() for name in ("one", "two")]
    assert made[0] == made[1]
    kept = [path for one in machine[:2] for path in one.home.rglob("*") if path.is_file()]
    texts = [path.read_bytes() for path in kept] + [first.err.encode(), second.err.encode()]
    assert not [text[:100] for text in texts for secret in secrets_of(place) if secret in text]


def test_services_that_are_down_cost_warnings(
    machine: list[Shipline], github_cache: ActionsCache, steps: Path, tmp_path: Path
) -> None:
    port = free_port()
    places = (
        s3_place(S3Service(port, "AKIDEXAMPLE", "key of nobody")),
        azure_place(f"http://127.0.0.1:{port}"),
        github_place(github_cache),
    )
    flags = [place.flag(port) for place in places]
    words = [word for flag in flags for word in ("--cache-from", flag, "--cache-to", flag)]
    said = machine[0].build(*PLAIN, "-o", tmp_path / "out", *words, steps).ok().err
    assert (tmp_path / "out/work/large").exists()
    assert said.count("cannot be read") == said.count("was not written") == 3, said
    assert said.count("connection refused") == 6, said
    assert not [one for place in places for one in secrets_of(place) if one in said.encode()]


def test_buildkit_and_shipline_use_each_others_actions_cache(
    docker: Docker,
    machine: list[Shipline],
    github_cache: ActionsCache,
    second_service: ActionsCache,
    steps: Path,
    tmp_path: Path,
) -> None:
    theirs, ours = github_place(github_cache), github_place(second_service)
    build(docker, "--cache-to", f"{theirs.flag()},mode=max", steps)
    done = machine[0].build(*PLAIN, "-o", tmp_path / "out", "--cache-from", theirs.flag(), steps)
    assert done.ok().err.count("CACHED") >= 3, done.err
    words = ("-o", tmp_path / "two", "--cache-to", f"{ours.flag()},mode=max")
    machine[1].build(*PLAIN, *words, steps).ok()
    output = build(docker, "--cache-from", ours.flag(), steps)
    assert output.count("CACHED") == 3, output


def test_outside_of_actions_a_build_goes_on_without_its_cache(
    machine: list[Shipline], steps: Path, tmp_path: Path
) -> None:
    words = ("--cache-from", "type=gha", "--cache-to", "type=gha,mode=max")
    done = machine[0].build(*PLAIN, "-o", tmp_path / "out", *words, steps)
    assert "ACTIONS_RUNTIME_TOKEN is not set" in done.ok().err
