"""Account operations by name, with JSON arguments: for the command line on a data directory, and
for `/api/accounts` of a running node.

Users may change their own password; everything else, and the audit log, is for administrators.
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
    harbor,
    json_response,
    permissions_of,
    problem,
    read_body,
    robot_json,
    take,
    texts,
)
from shipline.server.access.store import AccountStore, AccountsView
from shipline.server.access.tokens import refresh_tokens
from shipline.server.entries import Usage
from shipline.server.http import Pool, Request, Response, Route, route


def _nothing() -> Iterable[tuple[str, Usage]]:
    return ()


def _unlimited(project: str) -> int | None:
    return None


@dataclass(frozen=True, slots=True)
class ProjectUsage:
    """Usage by project. `usages` yields every repository; `limit` returns a project's quota in
    bytes, None for no limit.
    """

    usages: Callable[[], Iterable[tuple[str, Usage]]] = _nothing
    limit: Callable[[str], int | None] = _unlimited

    def repositories(self, view: AccountsView) -> Counter[str]:
        """The number of repositories per project."""
        projects = (view.project(name) for name, _ in self.usages())
        return Counter(project.name for project in projects if project is not None)

    def bytes_of(self, view: AccountsView, project: Project) -> int:
        """Bytes of a project; a blob in two repositories counts twice."""
        return sum(usage.bytes for name, usage in self.usages() if view.project(name) == project)


_LINES = 1000  # default lines of the audit log in a response
_MOST_LINES = 100_000
Operation = Callable[[Administration, Mapping[str, Any]], Any]


def perform(administration: Administration, operation: str, arguments: Mapping[str, Any]) -> Any:
    """Perform an operation; returns a JSON value.

    Raises UsageError if it is impossible, Problem for malformed arguments.
    """
    function = _OPERATIONS.get(operation)
    if function is None:
        raise NoSuchName(f"unknown operation {operation}; known: {', '.join(_OPERATIONS)}")
    return function(administration, arguments)


def accounts_json(accounts: AccountStore) -> dict[str, Any]:
    """All accounts, projects and refresh tokens, without secrets."""
    view, now = accounts.view(), accounts.clock()
    return {
        "users": [
            {
                "name": user.name,
                "admin": user.admin,
                "disabled": user.disabled,
                "used": accounts.last_used(user.name),
            }
            for user in sorted(view.users.values(), key=lambda user: user.name)
        ],
        "projects": [
            {"name": project.name, "public": project.public, "members": dict(project.members)}
            for project in sorted(view.projects.values(), key=lambda project: project.name)
        ],
        "robots": [
            {
                **robot_json(robot),
                "may": "; ".join(map(_describe, robot.permissions)),
                "state": _state(robot, now),
                "expires": robot.expires,
                "used": accounts.last_used(robot.login),
            }
            for robot in sorted(view.robots.values(), key=lambda robot: robot.id)
        ],
        "tokens": [
            {
                "account": token.subject,
                "client": token.client,
                "created": token.created,
                "expires": token.expires,
            }
            for token in refresh_tokens(accounts)
        ],
    }


def account_routes(
    accounts: AccountStore, administration: Callable[[Request], Administration], data: Path
) -> tuple[Route, ...]:
    """/api/accounts, /api/accounts/OPERATION and /api/audit."""

    def listing(request: Request) -> Response:
        return json_response(accounts_json(accounts))

    def act(request: Request, operation: str) -> Response:
        account, arguments = account_of(accounts, request), read_body(request)
        own = operation == "set-password" and isinstance(account, User)
        if own and arguments.get("name", "") in ("", account.login):
            arguments = {**arguments, "name": account.login}
        elif not request.principal.operator:
            raise problem(403, f"{account.login} is not an administrator")
        return json_response({"result": perform(administration(request), operation, arguments)})

    def audit(request: Request) -> Response:
        text = request.parameter("last") or str(_LINES)
        if not text.isdecimal() or not 0 < int(text[:9]) <= _MOST_LINES:
            raise problem(400, f"last must be 1 to {_MOST_LINES}")
        return json_response(list(read_audit(data, last=int(text))))

    return (
        route("/api/accounts", requires="operator", GET=harbor(listing)),
        route(
            "/api/accounts/(?P<operation>[a-z-]+)", requires="own", pool=Pool.CPU, POST=harbor(act)
        ),
        route("/api/audit", requires="operator", GET=harbor(audit)),
    )


def _text(arguments: Mapping[str, Any], name: str) -> str:
    text = take(dict(arguments), name, str, "")
    if not text:
        raise UsageError(f"{name} is missing", code="account-invalid")
    return str(text)


def _add_user(administration: Administration, arguments: Mapping[str, Any]) -> None:
    admin = take(dict(arguments), "admin", bool, False)
    administration.add_user(_text(arguments, "name"), _text(arguments, "password"), admin=admin)


def _set_user(administration: Administration, arguments: Mapping[str, Any]) -> None:
    flags = {name: take(dict(arguments), name, bool, None) for name in ("admin", "disabled")}
    fields = {name: value for name, value in flags.items() if value is not None}
    administration.set_user(_text(arguments, "name"), **fields)


def _add_project(administration: Administration, arguments: Mapping[str, Any]) -> None:
    public = take(dict(arguments), "public", bool, False)
    administration.add_project(_text(arguments, "name"), public=public)


def _set_member(administration: Administration, arguments: Mapping[str, Any]) -> None:
    role = take(dict(arguments), "role", str, None)
    administration.set_member(_text(arguments, "project"), _text(arguments, "user"), role)


def _add_robot(administration: Administration, arguments: Mapping[str, Any]) -> dict[str, str]:
    body = dict(arguments)
    options = RobotOptions(
        _text(arguments, "name"),
        take(body, "project", str, ""),
        permissions_of(body),
        take(body, "description", str, "")[:1000],
        False,
        take(body, "duration", int, -1),
        texts(body, "networks"),
    )
    robot, secret = administration.add_robot(options)
    return {"login": robot.login, "secret": secret}


def _rotate_robot(administration: Administration, arguments: Mapping[str, Any]) -> dict[str, str]:
    number = _robot(administration, arguments).id
    overlap = take(dict(arguments), "overlap", int, 0)
    return {"secret": administration.rotate_robot(number, overlap_s=overlap)}


def _set_robot(administration: Administration, arguments: Mapping[str, Any]) -> None:
    robot = _robot(administration, arguments)
    options = RobotOptions(
        robot.name,
        robot.project,
        robot.permissions,
        robot.description,
        take(dict(arguments), "disabled", bool, robot.disabled),
        robot.duration,
        robot.networks,
    )
    administration.set_robot(robot.id, options)


def _robot(administration: Administration, arguments: Mapping[str, Any]) -> Robot:
    login = _text(arguments, "login")
    account = administration.view.logins.get(login)
    if account is None:
        raise NoSuchName(f"no such robot: {login}", hint="`shipline registry robot ls` lists them")
    return account


_OPERATIONS: Mapping[str, Operation] = {
    "add-user": _add_user,
    "set-password": lambda by, arguments: by.set_password(
        _text(arguments, "name"), _text(arguments, "password")
    ),
    "set-user": _set_user,
    "remove-user": lambda by, arguments: by.remove_user(_text(arguments, "name")),
    "add-project": _add_project,
    "set-project": lambda by, arguments: by.set_project(
        _text(arguments, "name"), public=take(dict(arguments), "public", bool, False)
    ),
    "remove-project": lambda by, arguments: by.remove_project(_text(arguments, "name")),
    "set-member": _set_member,
    "add-robot": _add_robot,
    "rotate-robot": _rotate_robot,
    "set-robot": _set_robot,
    "remove-robot": lambda by, arguments: by.remove_robot(_robot(by, arguments).id),
    "revoke": lambda by, arguments: by.revoke(_text(arguments, "account")),
    "rotate-key": lambda by, arguments: by.rotate_key(
        now=take(dict(arguments), "now", bool, False)
    ),
}


def _state(robot: Robot, now: float) -> str:
    return "ok" if robot.usable(now) else "disabled" if robot.disabled else "expired"


def _describe(entry: Permission) -> str:
    may = ",".join(
        grant.action if grant.resource == "repository" else f"{grant.resource}:{grant.action}"
        for grant in entry.access
    )
    where = ",".join(entry.repositories) or entry.namespace
    return f"{may} {where}" + (f" tags {','.join(entry.tags)}" if entry.tags else "")
