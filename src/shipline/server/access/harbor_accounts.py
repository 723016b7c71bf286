"""Projects, members and robot accounts as Harbor's API has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shipline.server.access.accounts import Project, Robot, RobotOptions, Role
from shipline.server.access.administration import Administration, NameTaken, NoSuchName
from shipline.server.access.harbor_json import (
    BASE,
    account_of,
    harbor,
    json_response,
    page_response,
    permissions_of,
    problem,
    read_body,
    robot_json,
    take,
    texts,
    time_text,
)
from shipline.server.access.rights import administers, can_see
from shipline.server.access.store import AccountStore, AccountsView
from shipline.server.http import Request, Response, Route, route


def one_project(text: str, projects: list[Project]) -> Project:
    """By name or id. Raises NoSuchName, also for one that may not be seen."""
    number = int(text) if text.isdecimal() and len(text) < 10 else None
    for project in projects:
        if project.name == text or project.id == number:
            return project
    raise NoSuchName(f"no such project: {text}")


def managed_project(accounts: AccountStore, request: Request, text: str) -> Project:
    """A project that the client administers. Raises Problem 403 for one that it can only see."""
    view, account = accounts.view(), account_of(accounts, request)
    managed = one_project(
        text, [project for project in view.projects.values() if can_see(account, project)]
    )
    if not administers(view, account, managed.name):
        raise problem(403, f"{account.login} does not administer {managed.name}")
    return managed


_ROLES: dict[int, Role] = {
    1: "admin",
    2: "developer",
    3: "guest",
    4: "maintainer",
    5: "limited-guest",
}
_NAMES: dict[Role, str] = {
    "admin": "projectAdmin",
    "developer": "developer",
    "guest": "guest",
    "maintainer": "maintainer",
    "limited-guest": "limitedGuest",
}


def member_routes(
    accounts: AccountStore, administration: Callable[[Request], Administration]
) -> tuple[Route, ...]:
    """Member ids are user ids."""

    def listing(request: Request, project: str) -> Response:
        managed = managed_project(accounts, request, project)
        view = accounts.view()
        members = sorted(name for name in managed.members if name in view.users)
        path = f"/projects/{managed.id}/members"
        return page_response(request, path, members, lambda name: _member(view, managed, name))

    def add(request: Request, project: str) -> Response:
        managed = managed_project(accounts, request, project)
        body = read_body(request)
        name = take(take(body, "member_user", dict, {}), "username", str, "")
        if name in managed.members:
            raise NameTaken(f"{name} is already a member of {managed.name}")
        administration(request).set_member(managed.name, name, _role(body))
        number = accounts.view().users[name].id
        return json_response(
            {}, 201, [("Location", f"{BASE}/projects/{managed.id}/members/{number}")]
        )

    def show(request: Request, project: str, member: str) -> Response:
        managed = managed_project(accounts, request, project)
        view = accounts.view()
        return json_response(_member(view, managed, _name(view, managed, member)))

    def change(request: Request, project: str, member: str) -> Response:
        managed = managed_project(accounts, request, project)
        name = _name(accounts.view(), managed, member)
        administration(request).set_member(managed.name, name, _role(read_body(request)))
        return json_response({})

    def remove(request: Request, project: str, member: str) -> Response:
        managed = managed_project(accounts, request, project)
        name = _name(accounts.view(), managed, member)
        administration(request).set_member(managed.name, name, None)
        return json_response({})

    every = f"{BASE}/projects/(?P<project>[^/]+)/members"
    member_path = every + "/(?P<member>[0-9]{1,9})"
    return (
        route(every, requires="own", GET=harbor(listing), POST=harbor(add)),
        route(
            member_path, requires="own", GET=harbor(show), PUT=harbor(change), DELETE=harbor(remove)
        ),
    )


def _role(body: dict[str, Any]) -> Role:
    role = _ROLES.get(take(body, "role_id", int, 0))
    if role is None:
        raise problem(400, f"role_id must be one of {', '.join(map(str, _ROLES))}")
    return role


def _name(view: AccountsView, project: Project, member: str) -> str:
    for name in project.members:
        if name in view.users and view.users[name].id == int(member):
            return name
    raise NoSuchName(f"no member {member} in project {project.name}")


def _member(view: AccountsView, project: Project, name: str) -> dict[str, Any]:
    role, number = project.members[name], view.users[name].id
    return {
        "id": number,
        "project_id": project.id,
        "entity_id": number,
        "entity_name": name,
        "entity_type": "u",
        "role_id": next(key for key, value in _ROLES.items() if value == role),
        "role_name": _NAMES[role],
    }


_LONGEST_OVERLAP_S = 90 * 86_400


def robot_routes(
    accounts: AccountStore, administration: Callable[[Request], Administration]
) -> tuple[Route, ...]:
    """Robots of the system and of projects."""

    def listing(request: Request) -> Response:
        """System robots, or with q=Level=project,ProjectID=N those of a project."""
        filters = _filters(request)
        project = ""
        if filters.get("level") == "project" or "projectid" in filters:
            project = managed_project(accounts, request, filters.get("projectid", "")).name
        else:
            _require_administrator(accounts, request)
        return _page_of(accounts, request, "/robots", project, filters.get("name", ""))

    def listing_below(request: Request, project: str) -> Response:
        managed = managed_project(accounts, request, project)
        path = f"/projects/{project}/robots"
        return _page_of(accounts, request, path, managed.name, _filters(request).get("name", ""))

    def create(request: Request) -> Response:
        account_of(accounts, request)
        body = read_body(request)
        return _create_robot(accounts, request, administration(request), body, _project_of(body))

    def create_below(request: Request, project: str) -> Response:
        managed = managed_project(accounts, request, project)
        body = _from_v1(read_body(request), managed.name)
        return _create_robot(accounts, request, administration(request), body, managed.name)

    def show(request: Request, robot: str, project: str = "") -> Response:
        return json_response(robot_json(_robot(accounts, request, robot, project)))

    def change(request: Request, robot: str, project: str = "") -> Response:
        """Harbor's clients send the whole robot; name and level must be unchanged."""
        account = _robot(accounts, request, robot, project)
        body = read_body(request)
        if take(body, "name", str, account.login) not in (account.login, account.name):
            raise problem(400, "the name of a robot cannot be changed")
        level = "project" if account.project else "system"
        if take(body, "level", str, level) != level:
            raise problem(400, f"the level of a robot cannot be changed: it is {level}")
        administration(request).set_robot(account.id, _changed(account, body))
        return json_response({})

    def refresh(request: Request, robot: str) -> Response:
        """`overlap` (an extension): seconds that the previous secret stays valid."""
        account = _robot(accounts, request, robot, "")
        body = read_body(request)
        _check_secret(body)
        overlap = take(body, "overlap", int, 0)
        if not 0 <= overlap <= _LONGEST_OVERLAP_S:
            raise problem(400, f"overlap is 0 to {_LONGEST_OVERLAP_S} seconds")
        secret = administration(request).rotate_robot(account.id, overlap_s=overlap)
        return json_response({"secret": secret})

    def remove(request: Request, robot: str, project: str = "") -> Response:
        administration(request).remove_robot(_robot(accounts, request, robot, project).id)
        return json_response({})

    robot_path = "/robots/(?P<robot>[0-9]{1,9})"
    below = f"{BASE}/projects/(?P<project>[^/]+)"
    return (
        route(f"{BASE}/robots", requires="own", GET=harbor(listing), POST=harbor(create)),
        route(
            BASE + robot_path,
            requires="own",
            GET=harbor(show),
            PUT=harbor(change),
            PATCH=harbor(refresh),
            DELETE=harbor(remove),
        ),
        route(
            f"{below}/robots", requires="own", GET=harbor(listing_below), POST=harbor(create_below)
        ),
        route(
            below + robot_path,
            requires="own",
            GET=harbor(show),
            PUT=harbor(change),
            DELETE=harbor(remove),
        ),
    )


def _require_administrator(accounts: AccountStore, request: Request) -> None:
    if not administers(accounts.view(), account_of(accounts, request), ""):
        raise problem(403, "only an administrator may manage system robots")


def _page_of(
    accounts: AccountStore, request: Request, path: str, project: str, name: str
) -> Response:
    robots = sorted(accounts.view().robots.values(), key=lambda robot: robot.id)
    matching = [robot for robot in robots if robot.project == project and name in robot.login]
    return page_response(request, path, matching, robot_json)


def _filters(request: Request) -> dict[str, str]:
    """Harbor's `q`: pairs like Level=project,ProjectID=1,name=~part."""
    pairs = (part.partition("=") for part in (request.parameter("q") or "").split(","))
    return {key.strip().lower(): value.strip().lstrip("~") for key, _, value in pairs if key}


def _project_of(body: dict[str, Any]) -> str:
    """The project for a new robot, empty for the system."""
    level = take(body, "level", str, "")
    if level == "system":
        return ""
    spaces = {entry.namespace for entry in permissions_of(body)}
    if level != "project" or len(spaces) != 1:
        raise problem(
            400, "level must be system, or project with permissions in exactly one project"
        )
    return spaces.pop()


def _create_robot(
    accounts: AccountStore,
    request: Request,
    administration: Administration,
    body: dict[str, Any],
    project: str,
) -> Response:
    _check_secret(body)
    if project:
        project = managed_project(accounts, request, project).name
    else:
        _require_administrator(accounts, request)
    options = RobotOptions(
        take(body, "name", str, ""),
        project,
        permissions_of(body),
        take(body, "description", str, "")[:1000],
        take(body, "disable", bool, False),
        take(body, "duration", int, -1),
        texts(body, "networks"),
    )
    robot, secret = administration.add_robot(options)
    document = {
        "id": robot.id,
        "name": robot.login,
        "secret": secret,
        "creation_time": time_text(robot.created),
        "expires_at": int(robot.expires) or -1,
    }
    return json_response(document, 201, [("Location", f"{BASE}/robots/{robot.id}")])


def _check_secret(body: dict[str, Any]) -> None:
    """Refuse chosen secrets: a weak one could be guessed from the unsalted hash that is stored."""
    if take(body, "secret", str, ""):
        raise problem(400, "robot secrets are generated: omit it, and read it from the response")


def _changed(robot: Robot, body: dict[str, Any]) -> RobotOptions:
    """Omitted members stay unchanged, so that a v1 client can only disable."""
    return RobotOptions(
        robot.name,
        robot.project,
        permissions_of(body) if "permissions" in body else robot.permissions,
        take(body, "description", str, robot.description)[:1000],
        take(body, "disable", bool, robot.disabled),
        take(body, "duration", int, robot.duration),
        texts(body, "networks") if "networks" in body else robot.networks,
    )


def _from_v1(body: dict[str, Any], project: str) -> dict[str, Any]:
    """A v1 body has `access` instead of permissions, with paths as resources."""
    if "permissions" in body:
        return body
    access = []
    for entry in take(body, "access", list, []):
        resource = take(entry, "resource", str, "") if isinstance(entry, dict) else ""
        access.append({**dict(entry), "resource": resource.rpartition("/")[2]})
    return {**body, "permissions": [{"kind": "project", "namespace": project, "access": access}]}


def _robot(accounts: AccountStore, request: Request, number: str, project: str) -> Robot:
    """A robot that the client may manage. Raises NoSuchName for any other."""
    account, view = account_of(accounts, request), accounts.view()
    robot = view.robots.get(int(number))
    if robot is None or not administers(view, account, robot.project):
        raise NoSuchName(f"no such robot: {number}")
    if project and managed_project(accounts, request, project).name != robot.project:
        raise NoSuchName(f"no robot {number} in project {project}")
    return robot
