"""`shipline tags` costs the same with 50,000 commits, and with 5,000 tags, as with few."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from commits import Work, environment, fast_history

TRIES = 4  # the ratio is near 1; listing every commit makes it more than 2
SINCE = 500  # commits since the last version, in each history


def cost(work: Work, *arguments: str) -> float:
    """Processor seconds of `shipline` and the programs it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer(work, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def times_as_much(much: Work, little: Work, *arguments: str) -> float:
    """What it costs in one repository over the other, the least of some runs in turn."""
    runs = [(cost(much, *arguments), cost(little, *arguments)) for _ in range(TRIES)]
    return min(one for one, _ in runs) / min(other for _, other in runs)


def answer(work: Work, *arguments: str) -> str:
    command = [sys.executable, "-m", "shipline", *arguments]
    environ = environment(work.path.parent)
    done = subprocess.run(command, cwd=work.path, env=environ, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


def version(work: Work) -> tuple[str, int]:
    """The version that is proposed, and how many commits it counts since the last one."""
    told = json.loads(answer(work, "version", "--json"))
    return told["version"], int(told["versionReason"].split()[0])


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return fast_history(tmp_path_factory.mktemp("short") / "work", commits=2 * SINCE, tags=2)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Work:
    place = tmp_path_factory.mktemp("long") / "work"
    return fast_history(place, commits=50_000, tags=50_000 // SINCE)


def test_fifty_thousand_commits_cost_what_a_thousand_do(short: Work, long: Work) -> None:
    assert version(short) == ("1.1.1", SINCE)
    assert version(long) == ("1.99.1", SINCE)
    for words in (("tags",), ("version", "--json")):
        assert times_as_much(long, short, *words) < 1.7


def test_a_detached_head_costs_no_more(short: Work, long: Work) -> None:
    for work in (short, long):
        work.git("checkout", "-q", "--detach")
    assert times_as_much(long, short, "tags") < 1.7


def test_five_thousand_tags_cost_little_more(short: Work, tmp_path: Path) -> None:
    many = fast_history(tmp_path / "work", commits=10_000, tags=5_000)
    assert version(many) == ("1.4994.1", 12)
    assert times_as_much(many, short, "tags") < 2.5
