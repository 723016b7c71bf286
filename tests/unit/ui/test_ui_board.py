"""What the board says of an environment, from its history and the rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from histories import IMAGES, NOW, said, state
from shipline.deliver.drift import CLUSTER, DriftFinding
from shipline.deliver.environments import Approvals
from shipline.deliver.promotion import EnvironmentState
from shipline.oci import Reference
from shipline.pages import Frame, render_part
from shipline.ui.acting import ACTIONS, choices
from shipline.ui.board import BoardCell, read_board
from shipline.ui.project import digests_word
from shipline.units import Duration
from shipline.values import replace
from ui_projects import delivery

ALICE = "Alice <alice@example.org>"


def cells(
    place: Path, rules: Mapping[str, object], *states: EnvironmentState
) -> Mapping[str, BoardCell]:
    """The cells of dev and of staging, which has these rules and comes after dev."""
    made = delivery(place, staging={"after": "dev", **rules}, dev={})
    board = read_board(made, {one.name: one for one in states}, ALICE)
    assert [cell.name for cell in board.cells] == ["dev", "staging"]
    return {cell.name: cell for cell in board.cells}


@pytest.mark.parametrize(
    ("commits", "checked", "expected"),
    [
        ([], False, ("", "nothing deployed")),
        (["deploy a"], False, ("ok", "steady")),
        (["deploy a"], True, ("run", "starting")),
        (["deploy a", "verify a pass"], True, ("ok", "steady")),
        (["deploy a", "verify a fail"], True, ("bad", "not verified")),
        (["deploy a", "deploy b", "rollback a"], False, ("bad", "rolled back")),
        (["deploy a", "hold a"], False, ("hold", "held")),
        (["deploy a", "hold a", "release a"], False, ("ok", "steady")),
        (["deploy a", "stop"], False, ("hold", "stopped")),
        (["deploy a", "hold b"], False, ("ok", "steady")),
    ],
)
def test_the_state_of_an_environment_is_one_word(
    tmp_path: Path, commits: list[str], checked: bool, expected: tuple[str, str]
) -> None:
    dev = state("dev", *map(said, commits), checked=checked)
    cell = cells(tmp_path, {}, dev, state("staging"))["dev"]
    assert (cell.condition.kind, cell.condition.word) == expected


def test_a_change_by_hand_is_said_before_all_else(tmp_path: Path) -> None:
    dev = replace(state("dev", said("deploy a"), said("hold a")), edited="dev.yaml differs")
    cell = cells(tmp_path, {}, dev, state("staging"))["dev"]
    assert (cell.condition.word, cell.condition.reason) == ("changed by hand", "dev.yaml differs")
    assert cell.waits == "changed by hand: dev.yaml differs"


def test_drift_shows_where_somebody_looked(tmp_path: Path) -> None:
    made = delivery(tmp_path, dev={})
    states = {"dev": state("dev", said("deploy a"))}
    found = DriftFinding("dev", "registry.example/app", CLUSTER, "image_drift", "b runs")
    cell = read_board(made, states, ALICE, [found]).cells[0]
    assert cell.condition.kind == "bad drift" and "cluster: image drift b runs" in cell.waits
    fine = replace(found, state="in_sync")
    assert read_board(made, states, ALICE, [fine]).cells[0].condition.word == "steady"


def test_a_soak_counts_down_for_the_environment_that_waits_for_it(tmp_path: Path) -> None:
    rules = {"soak": Duration(3_600_000)}
    dev, staging = state("dev", said("deploy a", at=-900)), state("staging")
    found = cells(tmp_path, rules, dev, staging)
    soak = found["dev"].soak
    assert soak is not None and (soak.before, soak.left, soak.wanted) == ("staging", 2700, 3600)
    assert found["dev"].condition.word == "soaking"
    following = found["staging"].next
    assert following is not None and [one.rule for one in following.blockers] == ["soak"]
    assert following.possible == NOW.timestamp() + 2700
    assert not found["staging"].waits and not found["staging"].actions  # time waits for nobody
    there = state("staging", said("promote a", "staging"))
    assert cells(tmp_path, rules, dev, there)["dev"].soak is None


@pytest.mark.parametrize(
    ("approved", "author", "by", "expected"),
    [
        ("", "bob@example.org", "*", ["approve"]),
        ("alice@example.org", "bob@example.org", "*", []),
        ("carol@example.org", "bob@example.org", "*", ["approve"]),
        ("", "alice@example.org", "*", []),
        ("", "bob@example.org", "*@elsewhere.example", []),
    ],
)
def test_who_looks_is_asked_to_approve_if_that_would_count(
    tmp_path: Path, approved: str, author: str, by: str, expected: list[str]
) -> None:
    rules = {"approvals": Approvals(required=2, by=(by,))}
    dev = state("dev", said("deploy a", author=f"N <{author}>"))
    given = [said("approve a", "staging", by=approved)] if approved else []
    cell = cells(tmp_path, rules, dev, state("staging", *given))["staging"]
    assert list(cell.actions) == expected
    assert cell.next is not None and cell.next.mine == bool(expected)
    assert "approvals" in cell.waits


def test_what_is_refused_is_said_with_the_reason_and_cannot_be_promoted(tmp_path: Path) -> None:
    dev = state("dev", said("deploy a"), said("hold a"))
    cell = cells(tmp_path, {}, dev, state("staging"))["staging"]
    assert cell.waits.startswith("a is refused: it is held in dev")
    assert "promote" not in cell.actions


def test_actions_are_those_that_would_do_something(tmp_path: Path) -> None:
    ready = cells(tmp_path, {}, state("dev", said("deploy a")), state("staging"))
    assert ready["staging"].actions == ("promote",) and ready["dev"].actions == ("hold",)
    dev = state("dev", said("deploy a"), said("deploy b"), said("deploy c"), said("hold c"))
    cell = cells(tmp_path, {}, dev, state("staging"))["dev"]
    assert cell.actions == ("release", "rollback")
    assert [one.version for one in choices(cell, dev)] == ["b", "a"]
    subject = ACTIONS["release"].subject(cell)
    assert subject is not None and digests_word(subject.digests) == f"sha256:{'c' * 64}"


def test_what_the_last_environment_has_is_settled(tmp_path: Path) -> None:
    staging = state("staging", said("promote a", "staging"))
    assert cells(tmp_path, {}, state("dev", said("deploy a")), staging)["dev"].settled
    assert not cells(tmp_path, {}, state("dev", said("deploy b")), staging)["dev"].settled


def test_a_cell_shows_several_images_a_canary_and_hostile_text_as_text() -> None:
    hostile = "</td><script>alert(1)</script>"
    two = replace(
        said("deploy a"),
        images=tuple(
            Reference.parse(f"registry.example/shop/{name}:v1@sha256:{letter * 64}")
            for name, letter in (("web", "e"), ("api", "f"))
        ),
    )
    weight = replace(said("weight b"), weight=20, step="1/2", reason=hostile)
    dev = state("dev", two, weight)
    made = delivery(Path(), dev={})
    cell = read_board(made, {"dev": dev}, ALICE).cells[0]
    assert cell.waits == f"waits: the canary is frozen: {hostile}"
    frame = Frame("here", NOW.timestamp())
    html = render_part("cell.html", "cell", {"cell": cell}, frame=frame, actions=ACTIONS)
    assert (
        "shop/<wbr>web" in html
        and "shop/<wbr>api" in html
        and "b has 20&nbsp;% of the traffic" in html
    )
    assert f'href="/releases/sha256:{"e" * 64},sha256:{"f" * 64}"' in html
    assert "<script>" not in html and "&lt;script&gt;alert(1)" in html


def test_what_a_person_sees_is_named_exactly_in_commands() -> None:
    one = said("deploy a")
    assert digests_word(one.digests) == f"sha256:{'a' * 64}"
    two = replace(one, images=(IMAGES["b"], IMAGES["a"]))
    assert digests_word(two.digests) == f"sha256:{'a' * 64},sha256:{'b' * 64}"
