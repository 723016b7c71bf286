"""`shipline tags` costs the same with 50,000 commits, and with 5,000 tags, as with few."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from commits import Work, environment, fast_history

TRIES = 4
SINCE = 500  # commits since the last version, in each history


def cost(work: Work, *arguments: str) -> float:
    """Processor seconds of `shipline` and the programs it starts, the least of some runs."""
    times = []
    for _ in range(TRIES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer(work, *arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


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
        assert cost(long, *words) < 1.7 * cost(short, *words)


def test_a_detached_head_costs_no_more(short: Work, long: Work) -> None:
    for work in (short, long):
        work.git("checkout", "-q", "--detach")
    assert cost(long, "tags") < 1.7 * cost(short, "tags")


def test_five_thousand_tags_cost_little_more(short: Work, tmp_path: Path) -> None:
    many = fast_history(tmp_path / "work", commits=10_000, tags=5_000)
    assert version(many) == ("1.4994.1", 12)
    assert cost(many, "tags") < 2.5 * cost(short, "tags")
