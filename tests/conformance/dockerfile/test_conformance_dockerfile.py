"""Every case of the corpus makes the image that a real BuildKit makes of it.

Both builders run ahead of the tests on a few threads; see `compare.py` for work on single cases.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from corpus import (
    CONFIG,
    HISTORY,
    LAYERS,
    LINKS,
    TREE,
    Builder,
    BuildKit,
    Case,
    Outcome,
    Shipline,
    load_all,
    verdict,
)
from corpus.difference import compare

from peers import Docker, Registry
from shipline.tasks import Limiter, Once, TaskGroup, ordered_map

pytestmark = pytest.mark.peers
CASES = load_all()
AT_ONCE = 3  # builds; a step waits for its container more than it computes

Pair = tuple[Outcome | None, Outcome | None]
Builds = Callable[[Case], Pair]


@pytest.fixture(scope="session")
def own(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Shipline | None:
    """Our builder, or None as long as the command does not exist."""
    command = [sys.executable, "-m", "shipline", "build", "--help"]
    if subprocess.run(command, capture_output=True).returncode:
        return None
    return Shipline(registry, tmp_path_factory.mktemp("shipline"))


@pytest.fixture(scope="session")
def builds(
    request: pytest.FixtureRequest, docker: Docker, registry: Registry, own: Shipline | None
) -> Iterator[Builds]:
    """The outcomes of a case: the peer's, where it can be asked, and ours."""
    peer, limit, once = BuildKit(docker, registry), Limiter(AT_ONCE), Once[Pair]()

    def pair(case: Case) -> Pair:
        with limit:
            want = peer.build(case) if case.for_peer else None
            return want, own.build(case) if own else None

    def outcome(case: Case) -> Pair:
        return once.get(case.name, lambda: pair(case))

    with TaskGroup() as group:
        if "PYTEST_XDIST_WORKER" not in os.environ:  # there the others run most of the cases
            for name in _cases_of(request.session):
                group.start(outcome, CASES[name])
        yield outcome


def _cases_of(session: pytest.Session) -> list[str]:
    """The names of the cases that this session is going to test, each once."""
    here = [item for item in session.items if item.path == Path(__file__)]
    specs = [item.callspec for item in here if hasattr(item, "callspec")]
    return list(dict.fromkeys(spec.params["name"] for spec in specs))


@pytest.mark.parametrize("name", CASES)
def test_tree_and_configuration_are_those_of_buildkit(name: str, builds: Builds) -> None:
    case = CASES[name]
    problems = verdict(case, *builds(case), kinds=(TREE, LINKS, CONFIG))
    assert not problems, "\n".join(["", *problems])


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.expect == "success"])
def test_history_and_layers_are_those_of_buildkit(name: str, builds: Builds) -> None:
    case = CASES[name]
    problems = verdict(case, *builds(case), kinds=(HISTORY, LAYERS))
    assert not problems, "\n".join(["", *problems])


def test_a_warm_home_changes_nothing(builds: Builds, own: Shipline | None) -> None:
    """Built again, twice and in other orders, with what all other cases have left in the cache."""
    assert own is not None
    cases = list(CASES.values())
    cold = {case.name: builds(case)[1] for case in cases}
    first = _built(list(reversed(cases)), replace(own, warm=True))
    built = [case for case in cases if first[case.name].ok]
    second = _built(sorted(built, key=_shuffled), replace(own, warm=True))
    problems = [f"{name}: {one}" for name in cold for one in _changes(cold[name], first[name])]
    for name, outcome in second.items():
        digests, again = _configs(first[name]), _configs(outcome)
        if digests != again:
            problems.append(f"{name}: another image each time: {digests} {again}")
    assert not problems, "\n".join(["", *problems])


def _built(cases: list[Case], builder: Builder) -> dict[str, Outcome]:
    outcomes = ordered_map(builder.build, cases, workers=AT_ONCE, ahead=0)
    return {case.name: outcome for case, outcome in zip(cases, outcomes, strict=True)}


def _shuffled(case: Case) -> str:
    return hashlib.sha256(case.name.encode()).hexdigest()


def _changes(cold: Outcome | None, warm: Outcome) -> list[str]:
    assert cold is not None
    if cold.ok != warm.ok:
        return [f"{'succeeded' if warm.ok else 'failed'} over a warm home\n{warm.output}"]
    return [str(one) for one in compare(cold.images, warm.images)]


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
    text = "\n".join(path.read_text() for path in (Path(__file__).parent / "cases").glob("*.case"))
    instructions = (
        "FROM RUN COPY ADD ENV ARG LABEL CMD ENTRYPOINT SHELL EXPOSE VOLUME STOPSIGNAL "
        "HEALTHCHECK ONBUILD USER WORKDIR MAINTAINER"
    )
    assert not [word for word in instructions.split() if f"\n{word} " not in text]
