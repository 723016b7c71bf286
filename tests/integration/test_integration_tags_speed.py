"""`shipline tags` answers at once where there are 50,000 commits, and with 5,000 tags."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from commits import Work, environment, fast_history

LIMIT_S = 0.3
TRIES = 6


def quickest(work: Work, *arguments: str) -> float:
    """Seconds that `shipline` and the programs it starts keep a processor, the best of some runs.

    They run one after the other, so on a machine that does nothing else this is the time one
    waits; on a busy one it is still the same. Compiled modules are at hand from the first run on.
    """
    environ = environment(work.path.parent)
    times = []
    for _ in range(TRIES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "shipline", *arguments],
            cwd=work.path,
            env=environ,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.fixture(scope="module")
def long_history(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return fast_history(tmp_path_factory.mktemp("long") / "work", commits=50_000, tags=60)


def test_fifty_thousand_commits(long_history: Work) -> None:
    assert quickest(long_history, "tags") < LIMIT_S
    assert quickest(long_history, "version", "--json") < LIMIT_S


def test_fifty_thousand_commits_and_a_detached_head(long_history: Work) -> None:
    long_history.git("checkout", "-q", "--detach")
    assert quickest(long_history, "tags") < LIMIT_S


def test_five_thousand_tags(tmp_path: Path) -> None:
    work = fast_history(tmp_path / "work", commits=50_000, tags=5_000)
    assert quickest(work, "tags") < LIMIT_S
