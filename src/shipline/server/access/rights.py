"""What a client asks a token for (distribution, "Token Scope Documentation"), and what an account
may do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

from shipline.oci import InvalidReference, check_repository
from shipline.server.access.accounts import ROLE_ACTIONS, Account, Project, Robot, User, fits
from shipline.server.access.store import AccountsView
from shipline.server.http import Action

_TYPE = re.compile(r"[a-z0-9]+(?:\([a-z0-9]+\))?")
_LIMIT = 50  # resources in one token


@dataclass(frozen=True, slots=True)
class TokenScope:
    """Actions on one resource, as in `repository:samalba/my-app:pull,push`."""

    type: str
    name: str
    actions: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what is no scope: an unknown resource grants nothing and is no error.

        The name may hold a colon, as in host:port/name.
        """
        kind, _, rest = text.partition(":")
        name, _, actions = rest.rpartition(":")
        if not name or not _TYPE.fullmatch(kind):
            return None
        return cls(kind.partition("(")[0], name, frozenset(actions.split(",")) - {""})

    def to_json(self) -> dict[str, Any]:
        """A member of a token's `access` claim."""
        return {"type": self.type, "name": self.name, "actions": sorted(self.actions)}

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(sorted(self.actions))}"


def is_repository(name: str) -> bool:
    """Nothing else is signed, or put into a header."""
    try:
        check_repository(name)
    except InvalidReference:
        return False
    return True


def parse_scopes(texts: list[str]) -> list[TokenScope]:
    """The scopes of a request: the parameter may repeat, and one may hold several by blanks."""
    merged: dict[tuple[str, str], TokenScope] = {}
    for text in " ".join(texts).split()[:_LIMIT]:
        scope = TokenScope.parse(text)
        if scope is None:
            continue
        before = merged.get((scope.type, scope.name))
        actions = scope.actions | (before.actions if before else frozenset())
        merged[scope.type, scope.name] = TokenScope(scope.type, scope.name, actions)
    return list(merged.values())


def read_access(access: list[Any]) -> dict[tuple[str, str], frozenset[str]]:
    """The `access` claim of a verified token: actions by resource."""
    return {
        (entry["type"], entry["name"]): frozenset(entry["actions"])
        for entry in access
        if isinstance(entry, dict)
    }


def allowed(
    view: AccountsView,
    account: Account | None,
    action: Action,
    repository: str,
    tag: str = "",
    *,
    anonymous: bool = True,
) -> bool:
    """Whether `account` (None: nobody) may do `action`, with `tag` for that name of a manifest.

    `anonymous` is whether public projects are open to those without an account. A repository that
    belongs to no project is private: administrators and robots of the system reach it.
    """
    project = view.project(repository)
    if action == "pull" and project is not None and project.public:
        return account is not None or anonymous
    match account:
        case None:
            return False
        case User():
            return account.admin or _member_may(account, project, action)
        case Robot():
            return _robot_may(view, account, project, action, repository, tag)


def administers(view: AccountsView, account: Account | None, project: str) -> bool:
    """Whether the account may change members and robots of a project ("" is the system)."""
    if not isinstance(account, User):
        return False
    found = view.projects.get(project)
    return account.admin or (found is not None and found.members.get(account.name) == "admin")


def sees(view: AccountsView, account: Account | None, project: Project) -> bool:
    """Whether the project exists for this account."""
    if project.public:
        return True
    if isinstance(account, User):
        return account.admin or account.name in project.members
    return isinstance(account, Robot) and any(
        entry.namespace in ("*", project.name) for entry in account.permissions
    )


def _member_may(user: User, project: Project | None, action: Action) -> bool:
    role = None if project is None else project.members.get(user.name)
    return role is not None and action in ROLE_ACTIONS[role]


def _robot_may(
    view: AccountsView,
    robot: Robot,
    project: Project | None,
    action: Action,
    repository: str,
    tag: str,
) -> bool:
    """A robot of a project stays in it, whatever its permissions say."""
    name = None if project is None else project.name
    if robot.project and robot.project != name:
        return False
    return any(
        entry.namespace in ("*", name)
        and action in entry.actions
        and fits(entry.repositories, repository)
        and (not tag or fits(entry.tags, tag))
        for entry in robot.permissions
    )
