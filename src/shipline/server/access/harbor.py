"""Harbor's API for discovery and projects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from shipline import __version__
from shipline.server.access.accounts import Account, Project, User
from shipline.server.access.administration import Administration
from shipline.server.access.harbor_accounts import (
    managed_project,
    member_routes,
    one_project,
    robot_routes,
)
from shipline.server.access.harbor_json import (
    BASE,
    account_of,
    harbor,
    json_response,
    page_response,
    problem,
    project_json,
    read_body,
    take,
)
from shipline.server.access.operations import ProjectUsage
from shipline.server.access.rights import administers, can_see
from shipline.server.access.store import AccountStore, AccountsView
from shipline.server.http import Request, Response, Route, route


def harbor_routes(
    accounts: AccountStore,
    administration: Callable[[Request], Administration],
    project_usage: ProjectUsage,
) -> tuple[Route, ...]:
    """The routes below /api/v2.0."""
    return (
        *_node_routes(accounts),
        *_project_routes(accounts, administration, project_usage),
        *member_routes(accounts, administration),
        *robot_routes(accounts, administration),
    )


def _node_routes(accounts: AccountStore) -> tuple[Route, ...]:
    def ping(request: Request) -> Response:
        return Response.of(200, [("Content-Type", "text/plain; charset=utf-8")], b"Pong")

    def systeminfo(request: Request) -> Response:
        host = request.header("Host") or ""
        document = {
            "auth_mode": "db_auth",
            "harbor_version": f"shipline-{__version__}",
            "registry_url": host[:300],
            "external_url": host[:300],
            "project_creation_restriction": "adminonly",
            "self_registration": False,
            "has_ca_root": False,
        }
        return json_response(document)

    def health(request: Request) -> Response:
        components = [{"name": name, "status": "healthy"} for name in ("core", "registry")]
        return json_response({"status": "healthy", "components": components})

    def current(request: Request) -> Response:
        return json_response(_user_json(account_of(accounts, request)))

    return (
        route(f"{BASE}/ping", requires="open", GET=ping),
        route(f"{BASE}/systeminfo", requires="open", GET=systeminfo),
        route(f"{BASE}/health", requires="open", GET=health),
        route(f"{BASE}/users/current", requires="own", GET=harbor(current)),
    )


def _user_json(account: Account) -> dict[str, Any]:
    admin = isinstance(account, User) and account.admin
    return {
        "user_id": account.id,
        "username": account.login,
        "realname": account.login,
        "email": "",
        "sysadmin_flag": admin,
        "admin_role_in_auth": False,
    }


def _project_routes(
    accounts: AccountStore,
    administration: Callable[[Request], Administration],
    project_usage: ProjectUsage,
) -> tuple[Route, ...]:
    def visible(request: Request) -> list[Project]:
        view = accounts.view()
        name = request.principal.name
        account = view.account(name) if name else None
        projects = sorted(view.projects.values(), key=lambda project: project.name)
        return [project for project in projects if can_see(account, project)]

    def listing(request: Request) -> Response:
        projects = [project for project in visible(request) if _matches(request, project)]
        repositories = project_usage.repositories(accounts.view())
        to_json = partial(_project_json, repositories)
        return page_response(request, "/projects", projects, to_json)

    def exists(request: Request) -> Response:
        name = request.parameter("project_name")
        if not any(project.name == name for project in visible(request)):
            raise problem(404, f"there is no project {name}")
        return Response.of(200)

    def create(request: Request) -> Response:
        account = account_of(accounts, request)
        if not administers(accounts.view(), account, ""):
            raise problem(403, "only an administrator may add projects")
        body = read_body(request)
        name = take(body, "project_name", str, "")
        project = administration(request).add_project(
            name, public=_public(body), owner=account.login
        )
        return json_response({}, 201, [("Location", f"{BASE}/projects/{project.id}")])

    def show(request: Request, project: str) -> Response:
        shown = one_project(project, visible(request))
        return json_response(_project_json(project_usage.repositories(accounts.view()), shown))

    def summary(request: Request, project: str) -> Response:
        shown = one_project(project, visible(request))
        return json_response(_summary(project_usage, accounts.view(), shown))

    def change(request: Request, project: str) -> Response:
        managed = managed_project(accounts, request, project)
        administration(request).set_project(managed.name, public=_public(read_body(request)))
        return json_response({})

    def remove(request: Request, project: str) -> Response:
        removed = one_project(project, visible(request))
        if not administers(accounts.view(), account_of(accounts, request), ""):
            raise problem(403, "only an administrator may remove projects")
        administration(request).remove_project(removed.name)
        return json_response({})

    project_path = f"{BASE}/projects/(?P<project>[^/]+)"
    return (
        route(
            f"{BASE}/projects",
            requires="own",
            GET=harbor(listing),
            HEAD=harbor(exists),
            POST=harbor(create),
        ),
        route(
            project_path,
            requires="own",
            GET=harbor(show),
            PUT=harbor(change),
            DELETE=harbor(remove),
        ),
        route(f"{project_path}/summary", requires="own", GET=harbor(summary)),
    )


def _project_json(repositories: Mapping[str, int], project: Project) -> dict[str, Any]:
    return project_json(project, repositories.get(project.name, 0))


def _summary(project_usage: ProjectUsage, view: AccountsView, project: Project) -> dict[str, Any]:
    """Members by role, and the quota (-1: none)."""
    limit = project_usage.limit(project.name)
    roles = list(project.members.values())
    return {
        "repo_count": project_usage.repositories(view)[project.name],
        "project_admin_count": roles.count("admin"),
        "maintainer_count": roles.count("maintainer"),
        "developer_count": roles.count("developer"),
        "guest_count": roles.count("guest"),
        "limited_guest_count": roles.count("limited-guest"),
        "quota": {
            "hard": {"storage": -1 if limit is None else limit},
            "used": {"storage": project_usage.bytes_of(view, project)},
        },
    }


def _matches(request: Request, project: Project) -> bool:
    """Harbor's filters: `name` is a substring, `public` exact."""
    name, public = request.parameter("name"), request.parameter("public")
    if public is not None and project.public is not (public.lower() in ("true", "1")):
        return False
    return name is None or name in project.name


def _public(body: dict[str, Any]) -> bool:
    metadata = take(body, "metadata", dict, {})
    return json.dumps(metadata.get("public", body.get("public"))).strip('"') == "true"
