"""DORA's four measures, from histories as the commits of a GitOps repository tell them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from commits import START, Work
from shipline.deliver.gitops import Action, Deployment
from shipline.deliver.promotion import EnvironmentState, recorded_times
from shipline.deliver.promotion.performance import (
    DeployedChange,
    Performance,
    changes,
    delivery_metrics,
    measure,
    p95,
)
from shipline.oci import Reference
from shipline.telemetry.metrics import (
    DEPLOYMENTS,
    FAILED_DEPLOYMENTS,
    LEAD_TIME,
    PROMOTION,
    RESTORE_TIME,
    Series,
)

HOUR, DAY = 3600, 86400
END = START + 60 * DAY


def state(name: str, *said: str, source: Sequence[str] = ()) -> EnvironmentState:
    """`4 deploy a`: at hour 4; each letter is an image, and a commit of `source` in its order."""
    commits = []
    for number, line in enumerate(said):
        hour, action, letter, verdict, *_ = [*line.split(), "", "", ""]
        image = Reference.parse(f"registry.example/app:{letter}@sha256:{letter * 64}")
        commit = source[ord(letter) - ord("a")] if source else ""
        commits.append(
            Deployment(
                name,
                "app",
                (image,),
                commit=commit,
                action=Action(action),
                verdict=verdict,
                source="dev" if action == "promote" else "",
                time=int(START + float(hour) * HOUR),
                id=str(number),
            )
        )
    newest = tuple(reversed(commits))
    return EnvironmentState(name, newest, recorded_times(newest, END), checked=True)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    yield Work.init(tmp_path_factory.mktemp("work"))


def found(work: Work, *said: str, source: Sequence[str] = ()) -> list[DeployedChange]:
    return changes(state("dev", *said, source=source), work.asked)


def measured(work: Work, *said: str) -> Performance:
    return measure("dev", found(work, *said), START, END)


@pytest.mark.parametrize(
    ("said", "expected", "restored"),
    [
        (["1 deploy a"], (1, 0, 0, 0), ()),
        (["1 deploy a", "2 deploy a"], (1, 0, 0, 0), ()),
        (["1 deploy a", "2 verify a pass", "3 deploy b", "4 verify b pass"], (2, 0, 0, 0), ()),
        (["1 deploy a", "3 deploy b", "5 rollback a"], (2, 1, 1, 0), (2,)),
        (["1 deploy a", "3 deploy b", "4 verify b fail", "9 rollback a"], (2, 1, 1, 0), (5,)),
        (["1 deploy a", "2 verify a fail", "6 verify a pass"], (1, 0, 1, 0), (4,)),
        (["1 deploy a", "2 verify a fail", "6 deploy b"], (2, 0, 1, 0), (4,)),
        (["1 deploy a", "2 verify a fail"], (1, 0, 1, 1), ()),
        (
            ["1 deploy a", "2 verify a fail", "3 deploy b", "4 verify b fail", "7 deploy c"],
            (3, 0, 2, 0),
            (5, 3),
        ),
        (["1 deploy a", "2 verify b fail", "3 hold a", "4 approve b"], (1, 0, 0, 0), ()),
        (["1 deploy a", "2 deploy b", "4 rollback a", "5 rollback b"], (2, 2, 1, 0), (3,)),
    ],
)
def test_a_change_fails_by_a_rollback_or_a_verification_until_the_next_good_one(
    work: Work, said: list[str], expected: tuple[int, ...], restored: tuple[float, ...]
) -> None:
    one = measured(work, *said)
    assert (one.changes, one.rollbacks, one.failed, one.broken) == expected
    assert tuple(time / HOUR for time in one.restore_times_s) == restored


def test_only_the_time_that_is_asked_for_counts(work: Work) -> None:
    all_of_it = found(work, "1 deploy a", "48 deploy b", "96 deploy c", "97 rollback b")
    recent = measure("dev", all_of_it, START + 2 * DAY, START + 5 * DAY)
    assert (recent.changes, recent.rollbacks, recent.failed) == (2, 1, 1)
    assert recent.per_day == pytest.approx(2 / 3) and recent.failure_ratio == 0.5
    nothing = measure("dev", [], START, END).to_json()
    assert nothing["change_failure_ratio"] is None and nothing["lead_time_s"] is None


def test_each_commit_is_led_to_the_first_deployment_that_contains_it(tmp_path: Path) -> None:
    work = Work.init(tmp_path / "work")
    commits = [work.commit() for _ in range(3)]  # at minutes 1, 2, 3
    work.git("checkout", "-q", "-b", "side", commits[0])
    side = work.commit()  # 4
    work.git("checkout", "-q", "main")
    merge = work.merge("side", "merge")  # 5
    last = work.commit()  # 6
    source = [commits[1], merge, last]
    several = found(work, "1 deploy a", "2 deploy b", "3 rollback a", "4 deploy c", source=source)
    times = [[time / 60 for time in sorted(one.lead_times_s or ())] for one in several]
    assert times == [[58], [120 - 5, 120 - 4, 120 - 3], [], [240 - 6]]
    assert side in work.git("rev-list", merge)


def test_commits_that_the_clone_lacks_are_counted_and_no_error(work: Work) -> None:
    there = work.commit()
    several = found(work, "1 deploy a", "2 deploy b", source=["5" * 40, there])
    assert [one.lead_times_s is None for one in several] == [True, False]
    assert measure("dev", several, START, END).unknown == 1


def test_metrics_say_the_whole_history_of_each_environment(tmp_path: Path) -> None:
    work = Work.init(tmp_path)
    source = [work.commit(), work.commit()]
    states = {
        "dev": state("dev", "1 deploy a", "2 deploy b", "3 verify b fail", source=source),
        "live": state("live", "5 promote a", "7 promote b", "8 rollback a", source=source),
    }
    several = {name: changes(one, work.asked) for name, one in states.items()}
    values = delivery_metrics("app", states, several)
    numbers, observed = values.numbers, values.observed
    assert numbers[Series(DEPLOYMENTS, ("app", "dev", "deploy"))] == 2
    assert numbers[Series(DEPLOYMENTS, ("app", "live", "promote"))] == 2
    assert numbers[Series(DEPLOYMENTS, ("app", "live", "rollback"))] == 1
    assert numbers[Series(DEPLOYMENTS, ("app", "dev", "rollback"))] == 0
    assert numbers[Series(FAILED_DEPLOYMENTS, ("app", "dev"))] == 1
    assert numbers[Series(FAILED_DEPLOYMENTS, ("app", "live"))] == 1
    assert observed[Series(RESTORE_TIME, ("app", "live"))] == [HOUR]
    assert observed[Series(PROMOTION, ("app", "live"))] == [4 * HOUR, 5 * HOUR]
    assert observed[Series(LEAD_TIME, ("app", "dev"))] == [HOUR - 60, 2 * HOUR - 120]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (19, 19), (20, 19), (100, 95), (101, 96)])
def test_p95_is_the_least_that_95_of_100_do_not_exceed(count: int, expected: int) -> None:
    assert p95(range(count, 0, -1)) == expected
