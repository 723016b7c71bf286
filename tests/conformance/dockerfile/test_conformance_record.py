"""A recorded digest stands for one image: everything that is compared is in it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import pytest
from corpus import Outcome, due, load_all, outcome_digest, read_record, recordable
from corpus.image import Image
from test_conformance_corpus import image

from shipline.values import replace

CASES = load_all()
CASE = CASES["copy-several"]


def digest(images: Mapping[str, Image], *, ok: bool = True) -> str:
    return outcome_digest(CASE, Outcome(ok, "", 0, images), "28")


@pytest.mark.parametrize(
    "line",
    ["f mode=600", "f uid=1", "f gid=1", "f data=y", "f mtime=5", "f -> x", "f/", "g data=x"],
)
def test_every_property_of_a_file_changes_the_digest(line: str) -> None:
    assert digest(image("f data=x")) != digest(image(line))
    assert digest(image("f data=x")) == digest(image("f data=x"))


def test_links_configuration_history_and_layers_change_the_digest() -> None:
    found = {
        digest(image("f data=x", "g data=x")),
        digest(image("f data=x", "g => f")),
        digest(image("f data=x", "g data=x", ".wh.h")),
        digest(image("f data=x", "g data=x", config={"Env": ["A=1"]})),
        digest(image("f data=x", "g data=x", os="linux")),
        digest(image("f data=x", "g data=x", history=[{"created_by": "x"}])),
        digest({}),
        digest({}, ok=False),
    }
    assert len(found) == 8


def test_the_case_and_the_version_of_the_peer_change_the_digest() -> None:
    outcome = Outcome(True, "", 0, image("f"))
    found = {
        outcome_digest(CASE, outcome, "28"),
        outcome_digest(CASE, outcome, "29"),
        outcome_digest(replace(CASE, digest="other"), outcome, "28"),
    }
    assert len(found) == 3


def test_what_a_case_skips_and_the_parents_of_a_layer_are_not_in_the_digest() -> None:
    with_parents, without = image("d/", "d/f"), image("d/", "d/f")
    without = {name: replace(one, layers=(("d/f",),)) for name, one in without.items()}
    assert digest(with_parents) == digest(without)
    skipping = replace(CASE, skip=("history",))
    outcomes = [Outcome(True, "", 0, image("f", history=[{"created_by": by}])) for by in "xy"]
    assert len({outcome_digest(skipping, one, "28") for one in outcomes}) == 1


def test_the_peer_builds_each_case_within_ten_days() -> None:
    days = [date(2026, 12, 1) + timedelta(n) for n in range(10)]
    assert all(sum(due(case, day) for day in days) == 1 for case in CASES.values())


def test_only_what_is_the_same_each_time_is_recorded() -> None:
    assert [name for name in read_record() if not recordable(CASES[name])] == []
