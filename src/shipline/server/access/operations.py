"""What can be done with accounts, by name and with JSON: the command line does it in a directory or
at a running node.

and `/api/accounts` of a running node for its administrators.

Users change their own password; everything else, and the audit log, is for administrators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipline.errors import UsageError
from shipline.server.access.accounts import Permission, Project, Robot, RobotOptions, User
from shipline.server.access.administration import Administration, NoSuchName
from shipline.server.access.audit import read_audit
from shipline.server.access.harbor_json import (
    account_of,
    answer,
    harbor,
    permissions_of,
    read_body,
    refusal,
    robot_json,
    take,
    texts,
)
from shipline.server.access.store import AccountStore, AccountsView
from shipline.server.access.tokens import refresh_tokens
from shipline.server.entries import Usage
from shipline.server.http import Request, Response, Route, Step, route


def _nothing() -> Iterable[tuple[str, Usage]]:
    return ()


def _unlimited(project: str) -> int | None:
    return None


@dataclass(frozen=True, slots=True)
class ProjectUsage:
    """`usages` yields every repository; `limit` is the most bytes that a project may hold, None
    for no limit.
    """

    usages: Callable[[], Iterable[tuple[str, Usage]]] = _nothing
    limit: Callable[[str], int | None] = _unlimited

    def repositories(self, view: AccountsView) -> Counter[str]:
        """The number of repositories by the name of their project."""
        found = (view.project(name) for name, _ in self.usages())
        return Counter(project.name for project in found if project is not None)

    def bytes_of(self, view: AccountsView, project: Project) -> int:
        """A blob in two repositories counts twice."""
        return sum(usage.bytes for name, usage in self.usages() if view.project(name) == project)


_LINES = 1000  # of the audit log in one answer, where nothing else is said
_MOST_LINES = 100_000
Operation = Callable[[Administration, Mapping[str, Any]], Any]


def perform(administration: Administration, operation: str, said: Mapping[str, Any]) -> Any:
    """Do one of the operations; its result is as JSON has it.

    Raises UsageError for what cannot be done, Problem for what cannot be read.
    """
    found = _OPERATIONS.get(operation)
    if found is None:
        raise NoSuchName(f"there is no operation {operation}; known: {', '.join(_OPERATIONS)}")
    return found(administration, said)


def accounts_json(directory: AccountStore) -> dict[str, Any]:
    """All accounts, projects and refresh tokens, without their secrets."""
    view, now = directory.view(), directory.clock()
    return {
        "users": [
            {
                "name": one.name,
                "admin": one.admin,
                "disabled": one.disabled,
                "used": directory.last_used(one.name),
            }
            for one in sorted(view.users.values(), key=lambda one: one.name)
        ],
        "projects": [
            {"name": one.name, "public": one.public, "members": dict(one.members)}
            for one in sorted(view.projects.values(), key=lambda one: one.name)
        ],
        "robots": [
            {
                **robot_json(one),
                "may": "; ".join(map(_words, one.permissions)),
                "state": _state(one, now),
                "expires": one.expires,
                "used": directory.last_used(one.login),
            }
            for one in sorted(view.robots.values(), key=lambda one: one.id)
        ],
        "tokens": [
            {
                "account": one.subject,
                "client": one.client,
                "created": one.created,
                "expires": one.expires,
            }
            for one in refresh_tokens(directory)
        ],
    }


def account_routes(
    directory: AccountStore, administration: Callable[[Request], Administration], data: Path
) -> tuple[Route, ...]:
    def listing(request: Request) -> Response:
        return answer(accounts_json(directory))

    def act(request: Request, operation: str) -> Response:
        account, said = account_of(directory, request), read_body(request)
        own = operation == "set-password" and isinstance(account, User)
        if own and said.get("name", "") in ("", account.login):
            said = {**said, "name": account.login}
        elif not request.identity.operator:
            raise refusal(403, f"{account.login} is no administrator")
        return answer({"result": perform(administration(request), operation, said)})

    def audit(request: Request) -> Response:
        text = request.parameter("last") or str(_LINES)
        if not text.isdecimal() or not 0 < int(text[:9]) <= _MOST_LINES:
            raise refusal(400, f"last is 1 to {_MOST_LINES}")
        return answer(list(read_audit(data, last=int(text))))

    return (
        route("/api/accounts", need="operator", GET=harbor(listing)),
        route("/api/accounts/(?P<operation>[a-z-]+)", need="own", place=Step.CPU, POST=harbor(act)),
        route("/api/audit", need="operator", GET=harbor(audit)),
    )


def _text(said: Mapping[str, Any], name: str) -> str:
    found = take(dict(said), name, str, "")
    if not found:
        raise UsageError(f"{name} is missing")
    return str(found)


def _add_user(administration: Administration, said: Mapping[str, Any]) -> None:
    admin = take(dict(said), "admin", bool, False)
    administration.add_user(_text(said, "name"), _text(said, "password"), admin=admin)


def _set_user(administration: Administration, said: Mapping[str, Any]) -> None:
    found = {name: take(dict(said), name, bool, None) for name in ("admin", "disabled")}
    fields = {name: value for name, value in found.items() if value is not None}
    administration.set_user(_text(said, "name"), **fields)


def _add_project(administration: Administration, said: Mapping[str, Any]) -> None:
    public = take(dict(said), "public", bool, False)
    administration.add_project(_text(said, "name"), public=public)


def _set_member(administration: Administration, said: Mapping[str, Any]) -> None:
    role = take(dict(said), "role", str, None)
    administration.set_member(_text(said, "project"), _text(said, "user"), role)


def _add_robot(administration: Administration, said: Mapping[str, Any]) -> dict[str, str]:
    body = dict(said)
    wish = RobotOptions(
        _text(said, "name"),
        take(body, "project", str, ""),
        permissions_of(body),
        take(body, "description", str, "")[:1000],
        False,
        take(body, "duration", int, -1),
        texts(body, "networks"),
    )
    robot, secret = administration.add_robot(wish)
    return {"login": robot.login, "secret": secret}


def _rotate_robot(administration: Administration, said: Mapping[str, Any]) -> dict[str, str]:
    number = _robot(administration, said).id
    overlap = take(dict(said), "overlap", int, 0)
    return {"secret": administration.rotate_robot(number, overlap_s=overlap)}


def _set_robot(administration: Administration, said: Mapping[str, Any]) -> None:
    robot = _robot(administration, said)
    wish = RobotOptions(
        robot.name,
        robot.project,
        robot.permissions,
        robot.description,
        take(dict(said), "disabled", bool, robot.disabled),
        robot.duration,
        robot.networks,
    )
    administration.set_robot(robot.id, wish)


def _robot(administration: Administration, said: Mapping[str, Any]) -> Robot:
    login = _text(said, "login")
    found = administration.view.logins.get(login)
    if found is None:
        raise NoSuchName(f"there is no robot {login}", hint="shipline registry robot ls")
    return found


_OPERATIONS: Mapping[str, Operation] = {
    "add-user": _add_user,
    "set-password": lambda by, said: by.set_password(_text(said, "name"), _text(said, "password")),
    "set-user": _set_user,
    "remove-user": lambda by, said: by.remove_user(_text(said, "name")),
    "add-project": _add_project,
    "set-project": lambda by, said: by.set_project(
        _text(said, "name"), public=take(dict(said), "public", bool, False)
    ),
    "remove-project": lambda by, said: by.remove_project(_text(said, "name")),
    "set-member": _set_member,
    "add-robot": _add_robot,
    "rotate-robot": _rotate_robot,
    "set-robot": _set_robot,
    "remove-robot": lambda by, said: by.remove_robot(_robot(by, said).id),
    "revoke": lambda by, said: by.revoke(_text(said, "account")),
    "rotate-key": lambda by, said: by.rotate_key(now=take(dict(said), "now", bool, False)),
}


def _state(robot: Robot, now: float) -> str:
    return "ok" if robot.usable(now) else "disabled" if robot.disabled else "expired"


def _words(entry: Permission) -> str:
    may = ",".join(
        one.action if one.resource == "repository" else f"{one.resource}:{one.action}"
        for one in entry.access
    )
    where = ",".join(entry.repositories) or entry.namespace
    return f"{may} {where}" + (f" tags {','.join(entry.tags)}" if entry.tags else "")
