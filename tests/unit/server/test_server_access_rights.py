"""Rights as an algebra: limits never add rights, and each role includes the lower ones."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.errors import UsageError
from shipline.server.access.accounts import (
    ROLE_ACTIONS,
    Permission,
    Project,
    Robot,
    RobotAccess,
    RobotOptions,
    RobotPrefix,
    User,
    check_project_name,
    check_user_name,
)
from shipline.server.access.administration import Administration
from shipline.server.access.rights import TokenScope, allowed, parse_scopes
from shipline.server.access.store import AccountStore, AccountsView
from shipline.server.access.tokens import restricted
from shipline.server.http import Action

pytestmark = pytest.mark.usefixtures("cheap_hashes")

ACTIONS = get_args(Action)
NAMES = ("a", "a/b", "a/bc", "ab/c", "b/c", "a/b/c")
actions = st.sampled_from(ACTIONS)
names = st.sampled_from(NAMES)
words = st.sampled_from(("pull", "push", "create", "update", "delete", "*", "list"))
patterns = st.lists(st.sampled_from(("a/*", "a/b", "**", "b/*")), max_size=2).map(tuple)
permissions = st.builds(
    Permission,
    st.sampled_from(("*", "a", "b", "a/b")),
    st.lists(st.builds(RobotAccess, st.just("repository"), words), max_size=3).map(tuple),
    repositories=patterns,
    tags=st.sampled_from(((), ("v*",), ("latest",))),
)
robots = st.builds(
    Robot,
    st.just(1),
    st.just("r"),
    st.just("robot$r"),
    st.sampled_from(("", "a", "b")),
    st.lists(permissions, min_size=1, max_size=3).map(tuple),
    st.just(()),
)
VIEW = AccountsView(
    projects={
        "a": Project("a", members={"dev": "developer", "boss": "admin", "guest": "guest"}),
        "b": Project("b", public=True),
        "a/b": Project("a/b"),
    }
)


@given(robots, actions, names, st.sampled_from(("", "v1", "latest")))
def test_a_robot_of_a_project_stays_in_it(
    robot: Robot, action: Action, name: str, tag: str
) -> None:
    project = VIEW.project(name)
    outside = robot.project and (project is None or project.name != robot.project)
    public = action == "pull" and project is not None and project.public
    if outside and not public:
        assert not allowed(VIEW, robot, action, name, tag)


@given(robots, permissions, actions, names)
def test_one_permission_more_never_takes_away(
    robot: Robot, more: Permission, action: Action, name: str
) -> None:
    richer = Robot(1, "r", "robot$r", robot.project, (*robot.permissions, more), ())
    if allowed(VIEW, robot, action, name):
        assert allowed(VIEW, richer, action, name)


@given(robots, actions, names, st.dictionaries(names, st.frozensets(words)), st.booleans())
def test_a_token_limits_and_never_entitles(
    robot: Robot, action: Action, name: str, access: dict[str, frozenset[str]], listing: bool
) -> None:
    scopes = {("repository", key): value for key, value in access.items()}
    if listing:
        scopes["registry", "catalog"] = frozenset({"*"})

    def may(action: Action, repository: str, tag: str) -> bool:
        return allowed(VIEW, robot, action, repository, tag)

    if restricted(may, scopes)(action, name, ""):
        assert may(action, name, "")
        assert ("push" if action == "update" else action) in access[name]


@given(actions, names)
def test_nobody_pulls_what_is_public_and_no_more(action: Action, name: str) -> None:
    assert allowed(VIEW, None, action, name) is (action == "pull" and name == "b/c")
    assert not allowed(VIEW, None, action, name, anonymous=False)


def test_each_role_has_what_the_one_below_has() -> None:
    for lower, higher in pairwise(ROLE_ACTIONS.values()):
        assert lower <= higher


def test_members_and_administrators() -> None:
    dev, guest, admin = User("dev", ""), User("guest", ""), User("root", "", admin=True)
    assert allowed(VIEW, dev, "update", "a/x") and not allowed(VIEW, dev, "delete", "a/x")
    assert allowed(VIEW, guest, "pull", "a/x") and not allowed(VIEW, guest, "push", "a/x")
    assert not allowed(VIEW, dev, "pull", "a/b/x")  # the longer project has its own members
    assert not allowed(VIEW, dev, "pull", "nowhere/x")
    assert all(allowed(VIEW, admin, action, name) for action in ACTIONS for name in NAMES)


def test_patterns_of_tags_hold_for_names_alone() -> None:
    access = (RobotAccess("repository", "push"),)
    robot = Robot(1, "r", "robot$r", "a", (Permission("a", access, tags=("v*",)),), ())
    assert allowed(VIEW, robot, "push", "a/x")
    assert allowed(VIEW, robot, "push", "a/x", "v1")
    assert not allowed(VIEW, robot, "push", "a/x", "latest")


@given(
    st.sampled_from(("repository", "registry", "repository(plugin)")), st.text("ab/:-", min_size=1)
)
def test_a_scope_splits_at_the_first_and_the_last_colon(kind: str, name: str) -> None:
    scope = TokenScope.parse(f"{kind}:{name}:pull,push")
    assert scope == TokenScope(kind.partition("(")[0], name, frozenset({"pull", "push"}))


def test_scopes_repeat_and_join() -> None:
    found = parse_scopes(["repository:a:pull repository:b:pull", "repository:a:push", "nonsense"])
    assert {str(scope) for scope in found} == {"repository:a:pull,push", "repository:b:pull"}
    assert len(parse_scopes([f"repository:{number}:pull" for number in range(1000)])) == 50


@pytest.mark.parametrize(
    "name", ["", "A", "a b", "../a", "a\0b", "-a", "a" * 300, "a$b", "robot$x"]
)
def test_names_of_users_are_checked(name: str) -> None:
    with pytest.raises(UsageError):
        check_user_name(name)


@pytest.mark.parametrize("name", ["", "/", "a/", "/a", "a//b", "A", "a/../b", "..", "a:b"])
def test_names_of_projects_are_checked(name: str) -> None:
    with pytest.raises(UsageError):
        check_project_name(name)


@pytest.mark.parametrize(
    "options",
    [
        RobotOptions("", permissions=(Permission("*", ()),)),
        RobotOptions("a", permissions=()),
        RobotOptions("a", permissions=(Permission("*", ()),), duration=0),
        RobotOptions("a", permissions=(Permission("*", ()),), duration=-2),
        RobotOptions("a", permissions=(Permission("*", ()),), networks=("10.0.0.1/8",)),
        RobotOptions("a", permissions=(Permission("*", ()),), networks=("everywhere",)),
        RobotOptions("a", permissions=(Permission("*", (), repositories=("",)),)),
        RobotOptions("a", "p", permissions=(Permission("*", ()),)),
        RobotOptions("a", "p", permissions=(Permission("q", ()),)),
    ],
    ids=str,
)
def test_invalid_robot_options_are_refused(tmp_path: Path, options: RobotOptions) -> None:
    directory = AccountStore(tmp_path)
    administration = Administration(directory, actor="test")
    administration.add_project("p")
    with pytest.raises(UsageError):
        administration.add_robot(options)
    assert not directory.view().robots
    directory.close()


def test_prefixes_of_robots() -> None:
    assert RobotPrefix().login("p", "ci") == "robot$p+ci"
    assert RobotPrefix.parse("bot+").login("", "ci") == "bot+ci"
    for text in ("", "robot", "R$", "$" * 40, "a b$"):
        with pytest.raises(UsageError):
            RobotPrefix.parse(text)
