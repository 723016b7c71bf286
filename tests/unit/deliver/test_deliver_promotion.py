"""Whether images may be promoted: a function of the section, the history and the time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histories import AUTHOR, GITOPS, IMAGES, NOW, said, state
from shipline.deliver.environments import Approvals, EnvironmentSection, RequiredGates
from shipline.deliver.gitops import Action
from shipline.deliver.promotion import (
    SKEW_S,
    Candidate,
    EnvironmentState,
    JudgedGate,
    PromotionPolicy,
    blockers,
    possible_at,
    recorded_times,
)
from shipline.deliver.promotion.policy import may_approve
from shipline.deliver.windows import Weekdays, Window
from shipline.globs import Glob
from shipline.units import Duration


def rules_of(
    section: Mapping[str, object],
    dev: EnvironmentState,
    staging: EnvironmentState,
    candidate: Candidate | None = None,
    automatic: bool = False,
    blocks_in: dict[str, tuple[str, ...]] | None = None,
) -> list[str]:
    """The rules that block the image a."""
    keys = {"gitops": GITOPS, "after": "dev", **section}
    where = {gate: tuple(map(Glob.parse, names)) for gate, names in (blocks_in or {}).items()}
    policy = PromotionPolicy("staging", EnvironmentSection(**keys), where, automatic)  # type: ignore[arg-type]
    found = blockers(policy, {"dev": dev, "staging": staging}, candidate or CANDIDATE, NOW)
    return [f"{one.rule}{' waits' if one.waits else ''}" for one in found]


CANDIDATE = Candidate(frozenset({IMAGES["a"].digest}), "a", AUTHOR)  # type: ignore[arg-type]
THERE, EMPTY = state("dev", said("deploy a")), state("staging")
FAILED_ONCE = (("verify a pass", -8000), ("verify a fail", -7000), ("verify a pass", -900))
HALF_HOUR = Duration(1_800_000)


@pytest.mark.parametrize(
    ("commits", "checked", "expected"),
    [
        (["deploy a"], False, []),
        (["deploy b"], False, ["after"]),
        ([], False, ["after"]),
        (["deploy a", "deploy b"], False, []),
        (["deploy a"], True, ["after waits"]),
        (["deploy a", "verify a pass"], True, []),
        (["deploy a", "verify a fail"], True, ["after"]),
        (["deploy a", "verify a pass", "verify a error"], True, ["after"]),
        (["deploy a", "verify a fail", "verify a pass"], True, []),
        (["deploy a", "verify b pass"], True, ["after waits"]),
        (["deploy a", "hold a"], False, ["hold"]),
        (["deploy a", "hold b"], False, []),
        (["deploy a", "hold a", "release a"], False, []),
        (["deploy a", "hold a", "release b"], False, ["hold"]),
        (["deploy a", "stop"], False, []),  # stops promotions to dev, not from it
    ],
)
def test_the_environment_before_has_verified_the_digest(
    commits: list[str], checked: bool, expected: list[str]
) -> None:
    dev = state("dev", *map(said, commits), checked=checked)
    assert rules_of({}, dev, EMPTY) == expected


@pytest.mark.parametrize(
    ("commits", "expected"),
    [
        (["stop"], ["stop"]),
        (["stop", "resume"], []),
        (["resume", "stop"], ["stop"]),
        (["hold a"], ["hold"]),
        (["hold a", "release a", "hold a"], ["hold"]),
        (["deploy b", "hold b"], []),
    ],
)
def test_stops_and_holds_last_until_they_are_ended(commits: list[str], expected: list[str]) -> None:
    made = [said(words, "staging") for words in commits]
    assert rules_of({}, THERE, state("staging", *made)) == expected


@pytest.mark.parametrize(
    ("commits", "checked", "expected"),
    [
        ([("deploy a", -1900)], False, []),
        ([("deploy a", -1700)], False, ["soak waits"]),
        ([("deploy a", -4000), ("deploy b", -1000)], False, []),
        ([("deploy a", -4000), ("deploy b", -3000)], False, ["soak"]),  # never comes by waiting
        ([("deploy a", -4000), ("deploy b", -3000), ("rollback a", -900)], False, []),
        ([("deploy a", -4000), ("verify a pass", -1700)], True, ["soak waits"]),
        ([("deploy a", -4000), ("verify a pass", -1900)], True, []),
        ([("deploy a", -9000), *FAILED_ONCE], True, ["soak waits"]),
        # a clock that is behind gains no time
        ([("deploy b", -60), ("deploy a", -9000)], False, ["soak waits"]),
        ([("deploy a", -60), ("verify a pass", -9000)], True, ["soak waits"]),
        # nor does one that is ahead
        ([("deploy a", SKEW_S - 10)], False, ["soak waits"]),
        ([("deploy a", SKEW_S + 10)], False, ["clocks", "soak waits"]),
        ([("deploy a", 9e6), ("stop", 0)], False, ["soak waits"]),
    ],
)
def test_only_time_in_which_it_was_verified_and_there_counts_as_soak(
    commits: list[tuple[str, float]], checked: bool, expected: list[str]
) -> None:
    dev = state("dev", *(said(words, at=at) for words, at in commits), checked=checked)
    assert rules_of({"soak": HALF_HOUR}, dev, EMPTY) == expected


@pytest.mark.parametrize(
    ("rule", "commits", "missing"),
    [
        ({}, [("approve a", "bob")], False),
        ({}, [("approve b", "bob")], True),
        ({}, [("approve a", "ann")], True),
        ({"allow_author": True}, [("approve a", "ann")], False),
        ({"required": 2}, [("approve a", "bob"), ("approve a", "BOB")], True),
        ({"required": 2}, [("approve a", "bob"), ("approve a", "eve")], False),
        ({"by": ("bob@*",)}, [("approve a", "eve")], True),
        ({"by": ("eve@example.org", "bob@*")}, [("approve a", "eve")], False),
        ({}, [("approve a", "bob"), ("hold a", ""), ("release a", "")], True),
    ],
)
def test_approvals_are_of_a_digest_by_different_people(
    rule: dict[str, object], commits: list[tuple[str, str]], missing: bool
) -> None:
    made = [said(words, "staging", by=f"{who}@example.org") for words, who in commits]
    section = {"approvals": Approvals(**rule)}  # type: ignore[arg-type]
    expected = ["approvals waits"] if missing else []
    assert rules_of(section, THERE, state("staging", *made)) == expected


@pytest.mark.parametrize(
    "person",
    [
        "N <n+other@example.org>",
        "E <x@elsewhere.example a@example.org>",
        "E <x@elsewhere.example\tfoo@example.org>",
        "E <example.org>",
    ],
)
def test_an_approver_is_another_person_with_one_address(person: str) -> None:
    assert may_approve(Approvals(by=("*example.org",)), person, "n@example.org")


def test_nobody_approves_what_has_no_known_author() -> None:
    staging = state("staging", said("approve a", "staging", by="bob@example.org"))
    unknown = Candidate(CANDIDATE.digests, "a")
    assert rules_of({"approvals": Approvals()}, THERE, staging, unknown) == ["approvals"]


@pytest.mark.parametrize(
    ("outcome", "age_s", "judged_for", "blocks_in", "refused"),
    [
        ("pass", 60, "", (), False),
        ("pass", 90000, "", (), True),
        ("pass", -SKEW_S - 1, "", (), True),
        ("fail", 60, "", (), True),
        ("fail", 60, "", ("production",), False),
        ("fail", 60, "", ("stag*",), True),
        ("incomplete", 60, "", (), True),
        ("waived", 60, "", (), False),
        ("waived", 60, "dev", (), True),
        ("waived", 60, "staging", (), False),
        ("waived", 60, "dev", ("production",), False),
        (None, 0, "", (), True),
    ],
)
def test_required_gates_have_judged_the_digest_lately(
    outcome: str | None, age_s: float, judged_for: str, blocks_in: tuple[str, ...], refused: bool
) -> None:
    gates = {}
    if outcome:
        blocks = outcome in ("fail", "incomplete")
        at = NOW.timestamp() - age_s
        gates = {"scan": JudgedGate("scan", outcome, blocks, "why", at, judged_for)}
    (digest,) = CANDIDATE.digests
    candidate = Candidate(CANDIDATE.digests, "a", AUTHOR, {str(digest): gates})
    section = {"gates": RequiredGates(required=("scan",), max_age=Duration(86_400_000))}
    found = rules_of(section, THERE, EMPTY, candidate, blocks_in={"scan": blocks_in})
    assert found == (["gate scan"] if refused else [])


def test_a_person_promotes_where_it_is_by_hand() -> None:
    section = {"promotion": "manual"}
    assert rules_of(section, THERE, EMPTY) == []
    assert rules_of(section, THERE, EMPTY, automatic=True) == ["manual waits"]


def test_it_is_possible_in_the_first_window_after_the_soak() -> None:
    noon = Window(days=(Weekdays.parse("mon-fri"),))
    section = EnvironmentSection(
        gitops=GITOPS, after="dev", soak=Duration(13 * 3_600_000), windows=(noon,)
    )
    dev = state("dev", said("deploy a", at=0))
    found = blockers(
        PromotionPolicy("staging", section), {"dev": dev, "staging": EMPTY}, CANDIDATE, NOW
    )
    assert possible_at(section, found, NOW) == NOW + timedelta(hours=13)


COMMITS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "deploy a",
                "deploy b",
                "rollback a",
                "verify a pass",
                "verify a fail",
                "verify b pass",
                "hold a",
                "release a",
                "stop",
                "resume",
                "approve a",
                "promote c",
            ]
        ),
        st.sampled_from(["dev", "staging"]),
        st.integers(-7200, 900),
        st.sampled_from(["ann", "bob", "eve"]),
    ),
    max_size=12,
)


@given(COMMITS, st.booleans(), st.integers(0, 2), st.booleans())
def test_what_is_allowed_was_verified_soaked_approved_and_is_not_held(
    commits: list[tuple[str, str, int, str]], checked: bool, required: int, soak: bool
) -> None:
    """The law, said once more and independently, of every history."""
    made = [said(words, place, at=at, by=f"{who}@x") for words, place, at, who in commits]
    section: dict[str, object] = {"soak": HALF_HOUR} if soak else {}
    if required:
        section["approvals"] = Approvals(required=required)
    own = {
        name: state(name, *(one for one in made if one.environment == name), checked=checked)
        for name in ("dev", "staging")
    }
    if rules_of(section, own["dev"], own["staging"]):
        return
    dev, staging = own["dev"].commits, own["staging"].commits
    about = [one.action for one in staging if one.digests == CANDIDATE.digests]
    last_hold = next((action for action in about if action in ("hold", "release")), None)
    assert last_hold != "hold"
    assert next((one.action for one in staging if one.action in ("stop", "resume")), None) != "stop"
    assert any(one.action.deploys and one.digests == CANDIDATE.digests for one in dev)
    if checked:
        verdicts = [one.verdict for one in dev if one.digests == CANDIDATE.digests and one.verdict]
        assert verdicts[0] == "pass"
    if required:
        people = {one.by.rpartition("<")[2] for one in staging if one.action is Action.APPROVE} - {
            "ann@example.org>"
        }
        assert len(people) >= required
    if soak:
        oldest = min(one.time for one in dev if one.digests == CANDIDATE.digests)
        assert NOW.timestamp() - oldest >= HALF_HOUR.seconds


@given(st.lists(st.sampled_from(["hold a", "release a", "hold b", "deploy a"]), max_size=6))
def test_held_digests_are_those_that_are_held(words: list[str]) -> None:
    made = state("dev", *(said(one, at=number) for number, one in enumerate(words)))
    alone = {name: image.digest for name, image in IMAGES.items() if image.digest}
    held = {one for one in alone.values() if made.held(frozenset({one}))}
    assert made.held_digests == held


@given(COMMITS, st.integers(0, 86400))
def test_waiting_alone_never_makes_a_refusal_of_what_only_waits(
    commits: list[tuple[str, str, int, str]], later: int
) -> None:
    section = EnvironmentSection(gitops=GITOPS, after="dev", soak=HALF_HOUR)
    policy = PromotionPolicy("staging", section)

    def blocked(now: datetime) -> list[bool]:
        made = [said(words, place, at=at, by=who) for words, place, at, who in reversed(commits)]
        times = recorded_times(made, now.timestamp())
        own = {
            name: EnvironmentState(
                name, tuple(one for one in made if one.environment == name), times
            )
            for name in ("dev", "staging")
        }
        return [one.waits for one in blockers(policy, own, CANDIDATE, now)]

    before, after = blocked(NOW), blocked(NOW + timedelta(seconds=later))
    assert len(after) <= len(before)
    assert after.count(False) <= before.count(False)
