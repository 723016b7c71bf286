"""The plan: what runs, after what, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.config import loads
from shipline.errors import ConfigError, UsageError
from shipline.gates import GatesSection, ImageGate, TestsGate, VulnerabilitiesGate
from shipline.git import WorkTree
from shipline.oci import Digest
from shipline.ship.plan import Naming, Plan, PlanInput, ProjectConfig, Selection, make_plan
from shipline.ship.render import plan_text
from shipline.ship.section import Pipeline, StepSection
from shipline.ship.steps import declared_steps
from shipline.tags import Decision, Event, GitTag, Tag, TagsSection
from shipline.values import replace

WORK_TREE = WorkTree("c" * 40, "7" * 40, 0, "main")
GATES = GatesSection(tests=TestsGate())
MAIN = Event.of("main")
DECISION = Decision(
    event=MAIN,
    commit=WORK_TREE.commit,
    named_commit=WORK_TREE.commit,
    rule=1,
    version="1.0.0",
    version_reason="because",
    tags=(Tag("v1.0.0", False, "because"),),
    skipped=(),
    git_tag=GitTag("v1.0.0", WORK_TREE.commit, True),
    push=True,
)
NAMING = Naming(DECISION)
ALL = """\
image: registry.example/app
steps:
  lint: lint
  test: {run: test, needs: [lint]}
  scan: {scanner: trivy}
  feature: {run: x, when: {branch: "feature/**"}}
sign: {key: k}
copies: [other.example/app]
"""


def pipeline(text: str = ALL) -> Pipeline:
    return loads(text.encode(), "shipline.yaml", {}).pipeline


def plan(
    text: str = ALL,
    *,
    declared: Pipeline | None = None,
    naming: Naming = NAMING,
    gates: GatesSection | None = GATES,
    event: Event = MAIN,
    work_tree: WorkTree = WORK_TREE,
    **selected: Any,
) -> Plan:
    project = ProjectConfig(
        Path("/project"), "shipline.yaml", declared or pipeline(text), TagsSection(), gates
    )
    selection = Selection(**selected)
    given = PlanInput(project, work_tree, selection, event, {"CI": "1"}, naming)
    return make_plan(given, declared_steps(given))


def skipped(found: Plan) -> dict[str, str]:
    return {one.name: one.skip for one in found.steps if one.skip}


def test_everything_runs_where_nothing_hinders() -> None:
    found = plan()
    assert skipped(found).keys() == {"feature"}
    assert [one.name for one in found.steps[-5:]] == ["gates", "reserve", "sign", "copy", "publish"]


def test_five_lines_are_enough() -> None:
    found = plan("image: registry.example/app\nsteps:\n  test: make test\n", gates=None)
    assert skipped(found).keys() == {"gates", "sign", "copy"}


def test_names_come_after_everything_else() -> None:
    found = plan()
    for name in ("reserve", "sign", "copy", "publish"):
        before = _before(found, name)
        assert {"lint", "test", "scan", "build", "gates"} <= before


def _before(found: Plan, name: str) -> set[str]:
    needs = set(found.step(name).step.needs)
    return needs | {one for need in needs for one in _before(found, need)}


steps = st.lists(st.sampled_from("abcdef"), unique=True).flatmap(
    lambda names: st.fixed_dictionaries(
        {
            name: st.lists(st.sampled_from([*names[:place], "build"]), unique=True, max_size=3)
            for place, name in enumerate(names)
        }
    )
)


@given(steps, st.randoms())
def test_each_step_stands_after_what_it_needs(needs: dict[str, list[str]], random: Any) -> None:
    names = list(needs)
    random.shuffle(names)
    declared = Pipeline(
        steps={name: StepSection(run="x", needs=tuple(needs[name])) for name in names}
    )
    seen: set[str] = set()
    for one in plan(declared=declared).steps:
        assert set(one.step.needs) <= seen
        seen.add(one.name)
    assert seen >= set(names)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"skip": frozenset({"gates"})}, "nothing is tagged without the gates"),
        ({"only": frozenset({"publish"})}, "there is no image"),
        ({"only": frozenset({"publish", "build"})}, "nothing is tagged without the gates"),
        ({"skip": frozenset({"build"})}, "there is no image"),
        ({"naming": Naming(refused="it is another's")}, "it is another's"),
        ({"naming": Naming(replace(DECISION, push=False))}, "pushes nothing for a push"),
    ],
)
def test_nothing_is_published_without(changes: dict[str, Any], reason: str) -> None:
    assert reason in plan(**changes).step("publish").skip


def test_a_scan_needs_something_to_look_at() -> None:
    assert (
        "nothing is pushed" in plan(naming=Naming(replace(DECISION, push=False))).step("scan").skip
    )
    assert "there is no image" in plan(skip=frozenset({"build"})).step("scan").skip


def test_a_name_that_no_step_has_is_refused() -> None:
    with pytest.raises(UsageError, match="no step 'tset'"):
        Selection(skip=frozenset({"tset"})).check({"test", "build"})


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("run: test,", "run: test2,", {"test", "gates", "sign", "publish"}),
        ("lint: lint", "lint: lint2", {"lint", "test", "gates", "sign", "publish"}),
        ("key: k", "key: j", {"sign", "publish"}),
        ("scanner: trivy", "scanner: grype", {"scan", "gates", "sign", "publish"}),
    ],
)
def test_a_key_names_the_work_and_all_below_it(old: str, new: str, changed: set[str]) -> None:
    before, after = plan(), plan(ALL.replace(old, new))
    for name in ("lint", "test", "scan", "build", "gates", "sign", "publish"):
        same = before.step(name).key == after.step(name).key
        assert same != (name in changed), name


def test_other_gates_judge_anew() -> None:
    before, after = plan(), plan(gates=GatesSection(tests=TestsGate(min_tests=2)))
    assert before.step("build").key == after.step("build").key
    assert before.step("gates").key != after.step("gates").key


@pytest.mark.parametrize(
    ("when", "event", "runs"),
    [
        ("{branch: 'feature/**'}", Event.of("feature/a/b"), True),
        ("{branch: [main, develop]}", Event.of("main"), True),
        ("{branch: main}", Event.of("mainline"), False),
        ("{tag: 'v*'}", Event.of("refs/tags/v1"), True),
        ("{tag: 'v*'}", Event.of("main"), False),
        ("{event: pull-request}", Event.of("refs/pull/3/merge"), True),
        ("{event: [tag, schedule]}", Event.of("main"), False),
        ("{env: {CI: '1'}}", Event.of("main"), True),
        ("{env: {CI: '2*'}}", Event.of("main"), False),
        ("{branch: main, env: {CI: '2'}}", Event.of("main"), False),
    ],
)
def test_a_step_runs_where_all_of_its_when_holds(when: str, event: Event, runs: bool) -> None:
    text = f"steps: {{s: {{run: x, when: {when}}}}}"
    found = plan(text, work_tree=replace(WORK_TREE, branch=""), gates=None, event=event)
    assert (found.step("s").skip == "") == runs


def test_an_image_that_is_there_is_not_built() -> None:
    digest = Digest.of(b"x")
    found = plan(naming=Naming(DECISION, reuse={"": digest})).step("build")
    assert str(digest) in found.step.note


def test_gates_of_images_are_shown_as_not_judged_without_one() -> None:
    gates = GatesSection(
        tests=TestsGate(), image=ImageGate(), vulnerabilities=VulnerabilitiesGate()
    )
    judged, unbuilt = plan(gates=gates), plan(gates=gates, skip=frozenset({"build"}))
    unpushed = plan(gates=gates, naming=Naming(replace(DECISION, push=False)))
    assert not judged.step("gates").step.note
    for found in (unbuilt, unpushed):
        note = found.step("gates").step.note
        assert note == "not judged, for want of an image: vulnerabilities, image"
        assert note in plan_text(found) and found.skips("publish")


def test_a_reason_is_shown_once_for_all_steps_that_it_keeps_from_running() -> None:
    text = plan_text(plan(skip=frozenset({"build"})))
    assert text.count("there is no image: build is skipped by --skip") == 1
    assert "  reserve, sign, copy, publish  skipped: there is no image" in text
    refused = plan_text(plan(naming=Naming(DECISION, refused="a.py is not committed")))
    assert refused.count("a.py is not committed") == 1
    assert "  reserve, sign, copy, publish  skipped: the run is refused, see above" in refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: {a: {run: x, needs: [b]}}", "steps.a: needs 'b', which is not a step"),
        (
            "steps: {a: {run: x, needs: [b]}, b: {run: x, needs: [a]}}",
            "steps: they wait for each other: a -> b -> a",
        ),
        ("steps: {build: x}", "build is a step that every pipeline has"),
        ("steps: {a: {needs: [build]}}", "needs one of run and scanner"),
        ("steps: {a: {run: x, scanner: syft}}", "needs one of run and scanner"),
        ("steps: {a: {run: x, working-directory: ../b}}", "is outside the project"),
        ("steps: {a: {run: x, reports: [/etc/passwd]}}", "is outside the project"),
        ("steps: {a b: x}", "is not a name"),
        ("build: {needs: [s]}\nsteps: {s: {scanner: syft}}", "they wait for each other"),
        ("image: a.example/b@sha256:" + "0" * 64, "image: a.example/b"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(text)
    assert message in str(caught.value)
