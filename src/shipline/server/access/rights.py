"""Token scopes (distribution, "Token Scope Documentation"), and the rights of accounts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

from shipline.oci import InvalidReference, check_repository
from shipline.server.access.accounts import ROLE_ACTIONS, Account, Project, Robot, User, matches_any
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
        """None for a malformed scope, which grants nothing and is not an error.

        The name may contain a colon, as in host:port/name.
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
    """Whether this is a valid repository name; nothing else is signed or put into a header."""
    try:
        check_repository(name)
    except InvalidReference:
        return False
    return True


def parse_scopes(texts: list[str]) -> list[TokenScope]:
    """The scopes of a request: the parameter may repeat, and hold several separated by spaces."""
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
    """Whether `account` (None: anonymous) may do `action`, on that tag if one is given.

    `anonymous`: whether public projects are open to clients without an account. A repository
    outside of all projects is open only to administrators and system robots.
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
            return _robot_may(account, project, action, repository, tag)


def administers(view: AccountsView, account: Account | None, project: str) -> bool:
    """Whether the account may manage members and robots of a project ("" is the system)."""
    if not isinstance(account, User):
        return False
    stored = view.projects.get(project)
    return account.admin or (stored is not None and stored.members.get(account.name) == "admin")


def may_replicate(account: Account) -> bool:
    """Whether the account may replicate some repository."""
    if isinstance(account, User):
        return account.admin
    return any("replicate" in entry.actions for entry in account.permissions)


def can_see(account: Account | None, project: Project) -> bool:
    """Whether the project is visible to the account."""
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
    robot: Robot, project: Project | None, action: Action, repository: str, tag: str
) -> bool:
    """A project's robot is confined to it, whatever its permissions say."""
    name = None if project is None else project.name
    if robot.project and robot.project != name:
        return False
    return any(
        entry.namespace in ("*", name)
        and action in entry.actions
        and matches_any(entry.repositories, repository)
        and (not tag or matches_any(entry.tags, tag))
        for entry in robot.permissions
    )
