"""Members of projects and their roles, as Harbor's API has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shipline.server.access.accounts import Project, Role
from shipline.server.access.administration import Administration, Taken, Unknown
from shipline.server.access.directory import Directory, View
from shipline.server.access.harbor_json import BASE, answer, harbor, page, read_body, refusal, take
from shipline.server.access.harbor_projects import managed_project
from shipline.server.http import Request, Response, Route, route

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
    directory: Directory, administration: Callable[[Request], Administration]
) -> tuple[Route, ...]:
    """A member's number is the user's."""

    def listing(request: Request, project: str) -> Response:
        found = managed_project(directory, request, project)
        view = directory.view()
        members = sorted(name for name in found.members if name in view.users)
        path = f"/projects/{found.id}/members"
        return page(request, path, members, lambda name: _member(view, found, name))

    def add(request: Request, project: str) -> Response:
        found = managed_project(directory, request, project)
        body = read_body(request)
        name = take(take(body, "member_user", dict, {}), "username", str, "")
        if name in found.members:
            raise Taken(f"{name} is a member of {found.name} already")
        administration(request).set_member(found.name, name, _role(body))
        number = directory.view().users[name].id
        return answer({}, 201, [("Location", f"{BASE}/projects/{found.id}/members/{number}")])

    def show(request: Request, project: str, member: str) -> Response:
        found = managed_project(directory, request, project)
        view = directory.view()
        return answer(_member(view, found, _name(view, found, member)))

    def change(request: Request, project: str, member: str) -> Response:
        found = managed_project(directory, request, project)
        name = _name(directory.view(), found, member)
        administration(request).set_member(found.name, name, _role(read_body(request)))
        return answer({})

    def remove(request: Request, project: str, member: str) -> Response:
        found = managed_project(directory, request, project)
        name = _name(directory.view(), found, member)
        administration(request).set_member(found.name, name, None)
        return answer({})

    every = f"{BASE}/projects/(?P<project>[^/]+)/members"
    one = every + "/(?P<member>[0-9]{1,9})"
    return (
        route(every, need="own", GET=harbor(listing), POST=harbor(add)),
        route(one, need="own", GET=harbor(show), PUT=harbor(change), DELETE=harbor(remove)),
    )


def _role(body: dict[str, Any]) -> Role:
    role = _ROLES.get(take(body, "role_id", int, 0))
    if role is None:
        raise refusal(400, f"role_id is one of {', '.join(map(str, _ROLES))}")
    return role


def _name(view: View, project: Project, member: str) -> str:
    for name in project.members:
        if name in view.users and view.users[name].id == int(member):
            return name
    raise Unknown(f"there is no member {member} in {project.name}")


def _member(view: View, project: Project, name: str) -> dict[str, Any]:
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
