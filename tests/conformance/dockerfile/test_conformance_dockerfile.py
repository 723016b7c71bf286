"""Every case of the corpus makes the image that a real BuildKit makes of it.

See `compare.py` for work on single cases.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest
from corpus import (
    CONFIG,
    HISTORY,
    LAYERS,
    LINKS,
    TREE,
    BuildKit,
    Case,
    Outcome,
    Shipline,
    due,
    load_all,
    outcome_digest,
    read_record,
    verdict,
)
from corpus.difference import compare

from commands import run_shipline
from peers import Docker, GitServer, Registry, engine_version, git_server, newest
from peers.kubernetes import buildkit_commands, kubernetes_api
from peers.sshd import sshd
from shipline.values import replace

pytestmark = pytest.mark.peers
CASES = load_all()
CASE_FILES = Path(__file__).parent / "cases"


def _sample() -> list[str]:
    """The first case of each kind, the first word of its name, and every 40th of the others."""
    names = [name for name, case in sorted(CASES.items()) if case.for_peer]
    first = {name.partition("-")[0]: name for name in reversed(names)}
    return sorted({*first.values(), *names[::40]})


SAMPLE = _sample()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    """A server of repositories and files."""
    with git_server(tmp_path_factory.mktemp("served")) as running:
        yield running


@dataclass(frozen=True)
class OnceEach:
    """A builder that is asked once for each case."""

    builder: BuildKit
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def build(self, case: Case) -> Outcome:
        if case.name not in self.outcomes:
            self.outcomes[case.name] = self.builder.build(case)
        return self.outcomes[case.name]


@pytest.fixture(scope="session")
def buildkit(docker: Docker, registry: Registry, server: GitServer) -> OnceEach:
    return OnceEach(BuildKit(docker, registry, server))


@dataclass(frozen=True)
class Judge:
    """Knows what BuildKit makes of a case: by the record, or from itself, asked when first needed
    for cases that are not recorded or are due.
    """

    request: pytest.FixtureRequest
    peer: str
    recorded: Mapping[str, str]

    def problems(self, case: Case, got: Outcome) -> list[str]:
        known = self.recorded.get(case.name) == outcome_digest(case, got, self.peer)
        if known and not due(case, date.today()):
            return []
        want = self._build(case) if case.for_peer else None
        return verdict(case, want, got, kinds=(TREE, LINKS, CONFIG, HISTORY, LAYERS))

    def make_images(self, case: Case) -> None:
        """The images that both builders start from: BuildKit makes them."""
        if case.images:
            self._build(case)

    def _build(self, case: Case) -> Outcome:
        builder: OnceEach = self.request.getfixturevalue("buildkit")
        return builder.build(case)


@pytest.fixture
def judge(request: pytest.FixtureRequest, engine: str) -> Judge:
    return Judge(request, engine, read_record())


@pytest.fixture(scope="session")
def engine() -> str:
    """The version of the engine that has BuildKit."""
    return engine_version(newest())


@pytest.fixture(scope="session")
def shipline(
    base_images: Registry, server: GitServer, tmp_path_factory: pytest.TempPathFactory
) -> Shipline:
    """Our builder, without cached results."""
    return Shipline(base_images, tmp_path_factory.mktemp("shipline"), server)


@pytest.mark.root
@pytest.mark.parametrize("name", CASES)
def test_the_image_is_that_of_buildkit(name: str, judge: Judge, shipline: Shipline) -> None:
    """And the results of other cases in the cache make no other image of it; nor do its own, of
    which every third case is built again.
    """
    case = CASES[name]
    judge.make_images(case)
    cold = shipline.build(case)
    # what a cache mount holds is in no key: there, a step may take its own results alone
    mounts = "type=cache" in (CASE_FILES / f"{name}.case").read_text()
    home = shipline.home if mounts else shipline.home.with_name("cached")
    cached = replace(shipline, home=home, warm=True)
    over_others = cached.build(case)
    again = list(CASES).index(name) % 3 == 0
    over_its_own = cached.build(case) if again else over_others
    problems = judge.problems(case, cold)
    problems += [*_changes(cold, over_others), *_changes(cold, over_its_own)]
    if _configs(over_others) != _configs(over_its_own):
        problems.append(f"built again: {_configs(over_others)} {_configs(over_its_own)}")
    assert not problems, "\n".join(["", *problems])


@pytest.fixture(scope="session")
def builders(
    docker: Docker, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Mapping[str, str]]]:
    """The variables that choose a builder, by driver."""
    work = tmp_path_factory.mktemp("builders")
    chosen = {"BUILDX_CONFIG": str(work / "buildx")}
    far = {"SHIPLINE_HOME": str(work / "far"), "SHIPLINE_MIRRORS": f"docker.io={registry.url}"}
    command = ["env", *(f"{name}={value}" for name, value in far.items()), sys.executable]
    images = {"moby/buildkit:buildx-stable-1"}
    commands = buildkit_commands(docker.host.removeprefix("unix://"))
    with (
        sshd(work / "ssh") as server,
        kubernetes_api(images=images, commands=commands, ready_after_s=0) as api,
    ):
        path = f"{server.programs}{os.pathsep}{os.environ['PATH']}"
        config = api.kubeconfig(work / "kubeconfig", {})
        variables = {"PATH": path, "KUBECONFIG": str(config), **chosen}
        words = [["--driver=kubernetes"], ["--driver=ssh", "ssh://far"]]
        words[1].append(f"--driver-opt=command={' '.join(command)} -m shipline")
        for driver, one in zip(("kubernetes", "ssh"), words, strict=True):
            created = ["builder", "create", f"--name={driver}", *one]
            done = run_shipline(*created, environ=os.environ | variables, timeout_s=60)
            assert done.returncode == 0, done.stderr
        yield {
            "docker": {"DOCKER_HOST": docker.host, "BUILDX_BUILDER": "docker"},
            "kubernetes": {**variables, "BUILDX_BUILDER": "kubernetes"},
            "ssh": {**variables, "BUILDX_BUILDER": "ssh"},
        }


@pytest.mark.root
@pytest.mark.parametrize(
    ("driver", "name"),
    [
        *(("docker", name) for name in SAMPLE),
        *(("kubernetes", name) for name in SAMPLE[::4]),  # the BuildKit of docker
        *(("ssh", name) for name in SAMPLE[::2]),
    ],
)
def test_the_image_is_the_same_through_another_builder(
    driver: str,
    name: str,
    judge: Judge,
    shipline: Shipline,
    builders: Mapping[str, Mapping[str, str]],
) -> None:
    """Of each kind of case: all of them are compared by `compare.py --through-docker`."""
    case = CASES[name]
    judge.make_images(case)
    problems = judge.problems(case, replace(shipline, through=builders[driver]).build(case))
    assert not problems, "\n".join(["", *problems])


def _changes(cold: Outcome, cached: Outcome) -> list[str]:
    if cold.ok != cached.ok:
        return [f"{'succeeded' if cached.ok else 'failed'} with a cache\n{cached.output}"]
    return [str(one) for one in compare(cold.images, cached.images)]


def _configs(outcome: Outcome) -> dict[str, object]:
    """What the configurations' digests stand for: with all times, and the layers' digests.

    An image without layers has only the time of the build itself.
    """
    return {
        platform: image.config if image.layers else {**image.config, "created": ""}
        for platform, image in outcome.images.items()
    }


def test_corpus_covers_every_instruction() -> None:
    """A new instruction needs a case before it is written."""
    text = "\n".join(path.read_text() for path in CASE_FILES.glob("*.case"))
    instructions = (
        "FROM RUN COPY ADD ENV ARG LABEL CMD ENTRYPOINT SHELL EXPOSE VOLUME STOPSIGNAL "
        "HEALTHCHECK ONBUILD USER WORKDIR MAINTAINER"
    )
    assert not [word for word in instructions.split() if f"\n{word} " not in text]
