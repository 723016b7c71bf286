"""Environments in the plan: which are deployed to, after what, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shipline.config import loads
from shipline.errors import ConfigError, UsageError
from shipline.git import WorkTree
from shipline.ship.plan import Naming, Plan, PlanInput, ProjectConfig, Selection, make_plan
from shipline.ship.steps import declared_steps
from shipline.ship.steps.deploy import DEPLOY, DeployedImages
from shipline.tags import Decision, Event, Tag, TagsSection
from shipline.values import replace

TEXT = """\
image: registry.example/app
environments:
  production: {gitops: {repository: g, updates: [{kustomization: c}]}, after: staging}
  dev: {gitops: {repository: g, updates: [{kustomization: a}]}}
  staging: {gitops: {repository: g, updates: [{kustomization: b}]}, after: dev}
  demo: {gitops: {repository: g, updates: [{kustomization: d}]}, branches: ["demo/*", main]}
"""
CHAIN = ("deploy-dev", "deploy-staging", "deploy-production")
WORK_TREE = WorkTree("c" * 40, "7" * 40, 0, "main")
MAIN = replace(Event.of("main"), default_branch="main")


def plan(
    text: str = TEXT, *, event: Event = MAIN, work_tree: WorkTree = WORK_TREE, **selected: Any
) -> Plan:
    config = loads(text.encode(), "shipline.yaml", {})
    project = ProjectConfig(
        Path("/p"),
        "shipline.yaml",
        config.pipeline,
        TagsSection(),
        environments=config.environments or {},
    )
    decision = Decision(
        event=event,
        commit=WORK_TREE.commit,
        named_commit=WORK_TREE.commit,
        rule=1,
        version="1.0.0",
        version_reason="because",
        tags=(Tag("v1.0.0", False, "because"),),
        skipped=(),
        git_tag=None,
        push=event.kind != "pull-request",
    )
    given = PlanInput(project, work_tree, Selection(**selected), event, {}, Naming(decision))
    return make_plan(given, declared_steps(given))


def deployed(found: Plan) -> set[str]:
    return {one.name for one in found.steps if one.step.kind == "deploy" and not one.skip}


def test_environments_follow_the_tags_and_each_other() -> None:
    found = plan()
    names = [one.name for one in found.steps]
    assert [found.step(name).step.needs for name in CHAIN] == [("publish",), *zip(CHAIN[:2])]
    assert names.index("publish") < names.index(CHAIN[0]) < names.index(CHAIN[2])
    assert found.step("deploy-staging").step.command == "shipline promote --from dev --env staging"
    assert deployed(found) == {*CHAIN, "deploy-demo"}


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("publish", set()),
        ("dev", {*CHAIN[:1]}),
        ("staging", {*CHAIN[:2]}),
        ("demo", {"deploy-demo"}),
    ],
)
def test_until_ends_the_run_with_an_environment(until: str, expected: set[str]) -> None:
    found = plan(until=until)
    assert deployed(found) == expected
    assert not found.skips("publish")
    assert found.step(CHAIN[2]).skip == f"the run ends at --until {until}"


def test_until_names_an_environment() -> None:
    with pytest.raises(UsageError, match="--until: there is no environment 'prod'") as raised:
        Selection(until="prod").check(frozenset(), ("dev", "production"))
    assert raised.value.hint == "there is publish, dev, production"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (replace(Event.of("feature/x"), default_branch="main"), set()),
        (replace(Event.of("demo/x"), default_branch="main"), {"deploy-demo"}),
        (Event.of("refs/tags/v1.0.0"), {*CHAIN, "deploy-demo"}),
        (Event.of("refs/pull/3/merge"), set()),
        (Event.of("main"), {"deploy-demo"}),  # nothing says that it is the default branch
    ],
)
def test_only_the_default_branch_and_tags_are_deployed_unless_others_are_named(
    event: Event, expected: set[str]
) -> None:
    assert deployed(plan(event=event)) == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"skip": frozenset({"publish"})}, "publish is skipped by --skip"),
        ({"skip": frozenset({"build"})}, "there is no image"),
        ({"only": frozenset({"build"})}, "not among --only"),
        ({"work_tree": WorkTree("c" * 40, "7" * 40, 1, "main", changes=("a",))}, "never deployed"),
    ],
)
def test_nothing_is_deployed_that_has_no_tags(changes: dict[str, Any], reason: str) -> None:
    assert reason in plan(**changes).step("deploy-dev").skip


def test_a_result_is_read_as_it_was_recorded() -> None:
    done = DeployedImages("dev", ("registry.example/app:1@sha256:" + "0" * 64,), "c" * 40)
    assert DEPLOY.decode(done.to_json()) == done


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT + "steps: {deploy-dev: x}\n", "deploy-dev is the step of an environment"),
        (TEXT.replace("demo:", '"a b":'), "'a b' is not a name"),
        (TEXT.replace("demo:", "publish:"), "publish is the step before"),
    ],
)
def test_names_are_those_of_steps(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loads(text.encode(), "shipline.yaml", {})
