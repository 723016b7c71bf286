"""Regions in the plan, and the quorum that the tags wait for."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipline.config import loads
from shipline.errors import ShiplineError
from shipline.git import WorkTree
from shipline.ship.plan import Naming, Plan, PlanInput, ProjectConfig, Selection, make_plan
from shipline.ship.section import Pipeline, RegionsSection
from shipline.ship.steps import declared_steps
from shipline.tags import Decision, Event, Tag, TagsSection

TEXT = """\
image: registry.example/team/app
sign: {key: k}
regions:
  wait: quorum
  registries: {eu: registry.eu.example, ap: "127.0.0.1:5000/mirror", us: us.example}
"""
MAIN = Event.of("main")
WORK_TREE = WorkTree("c" * 40, "7" * 40, 0, "main")
DECISION = Decision(
    event=MAIN,
    commit=WORK_TREE.commit,
    named_commit=WORK_TREE.commit,
    rule=1,
    version="1.0.0",
    version_reason="because",
    tags=(Tag("v1.0.0", False, "because"),),
    skipped=(),
    git_tag=None,
    push=True,
)


def pipeline(text: str = TEXT) -> Pipeline:
    return loads(text.encode(), "shipline.yaml", {}).pipeline


def plan(text: str = TEXT, *skip: str) -> Plan:
    project = ProjectConfig(Path("/p"), "shipline.yaml", pipeline(text), TagsSection(), None)
    selection = Selection(skip=frozenset(skip))
    given = PlanInput(project, WORK_TREE, selection, MAIN, {}, Naming(DECISION))
    return make_plan(given, declared_steps(given))


def test_an_image_has_its_path_below_the_prefix_of_each_region() -> None:
    places = {name: str(one[""]) for name, one in pipeline().in_regions.items()}
    assert places == {
        "eu": "registry.eu.example/team/app",
        "ap": "127.0.0.1:5000/mirror/team/app",
        "us": "us.example/team/app",
    }


def test_each_region_has_a_step_before_the_tags_and_one_after() -> None:
    found = plan()
    names = [one.name for one in found.steps]
    for region in ("eu", "ap", "us"):
        before, after = found.step(f"copy-{region}").step, found.step(f"publish-{region}").step
        assert before.needs == ("sign",) and before.deferrable and after.deferrable
        assert after.needs == ("publish", f"copy-{region}")
        assert names.index(before.name) < names.index("publish") < names.index(after.name)
        assert after.command.endswith("/team/app:v1.0.0")
    publish = found.step("publish").step
    assert publish.note == "once 2 of 3 regions have it"
    assert publish.needs_some == ("copy-eu", "copy-ap", "copy-us") and publish.at_least == 2


@pytest.mark.parametrize(
    ("wait", "needed"), [("all", [0, 1, 2, 3, 4]), ("quorum", [0, 1, 2, 2, 3]), ("none", [0] * 5)]
)
def test_a_quorum_is_more_than_half(wait: str, needed: list[int]) -> None:
    section = loads(f"regions: {{wait: {wait}}}".encode(), "x", {}).pipeline.regions
    assert [section.needed(count) for count in range(5)] == needed
    assert RegionsSection().wait == "all"


def test_with_all_no_region_may_fail() -> None:
    found = plan(TEXT.replace("quorum", "all"))
    assert found.step("publish").step.at_least == 3
    assert not any(one.step.deferrable for one in found.steps)


def test_a_region_that_is_left_out_gets_no_tag_and_is_not_waited_for() -> None:
    found = plan(TEXT, "copy-us")
    assert "not copied there" in found.step("publish-us").skip
    assert found.step("publish").step.needs_some == ("copy-eu", "copy-ap")
    assert found.step("publish").step.at_least == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("registries: {EU: eu.example}", "'EU' is not a name"),
        ("registries: {eu: eu.example/App}", "registries.eu"),
        ("registries: {eu: eu.example/}", "registries.eu"),
        ("registries: {eu: mirror}", "is not HOST"),
        ("registries: {eu: 'https://eu.example'}", "'https://eu.example' is a URL, not HOST"),
        ("registries: {eu: r.example}", "is that of image"),
        ("registries: {eu: a.example, us: a.example}", "is that of regions.registries.eu"),
        ("wait: some", "wait"),
    ],
)
def test_mistakes_are_named(text: str, says: str) -> None:
    with pytest.raises(ShiplineError, match=says) as raised:
        pipeline(f"image: r.example/app\nregions: {{{text}}}\n")
    assert raised.value.exit_code == 3


def test_steps_of_a_region_are_no_names_of_others() -> None:
    text = "image: r.example/a\nsteps: {copy-eu: x}\nregions: {registries: {eu: e.example}}\n"
    with pytest.raises(ShiplineError, match="copy-eu is a step that every pipeline has"):
        pipeline(text)
