"""Harbor's JSON: paging, errors, bodies (Harbor API 2.0)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from shipline.errors import ShiplineError, UsageError
from shipline.server.access.accounts import Account, Permission, Project, Robot, RobotAccess
from shipline.server.access.administration import NameTaken, NoSuchName
from shipline.server.access.store import AccountStore
from shipline.server.http import Handler, Headers, Request, Response
from shipline.server.problems import Problem
from shipline.units import rfc3339

BASE = "/api/v2.0"
_LIMIT = 1 << 20  # bytes of a body
_PAGE, _LARGEST = 10, 100
_WORD = re.compile(r"[a-z0-9*:-]{1,64}")
_STATUS = {401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND", 409: "CONFLICT"}


def harbor(handler: Handler) -> Handler:
    """Wraps a handler: errors of account changes become Harbor's errors."""

    @wraps(handler)
    def answered(request: Request, **arguments: str) -> Response:
        try:
            return handler(request, **arguments)
        except NoSuchName as error:
            raise problem(404, error.message) from None
        except NameTaken as error:
            raise problem(409, error.message) from None
        except Problem:
            raise
        except UsageError as error:
            raise problem(400, _text(error)) from None

    return answered


def problem(status: int, message: str) -> Problem:
    """An error in Harbor's format."""
    return Problem(status, _STATUS.get(status, "BAD_REQUEST"), message)


def account_of(accounts: AccountStore, request: Request) -> Account:
    """The client's account. Raises Problem 401 if anonymous."""
    account = accounts.view().account(request.principal.name) if request.principal.name else None
    if account is None:
        raise Problem(
            401,
            "UNAUTHORIZED",
            "authentication required",
            headers=(("WWW-Authenticate", 'Basic realm="harbor"'),),
        )
    return account


def json_response(
    document: Any, status: int = 200, headers: Sequence[tuple[str, str]] = ()
) -> Response:
    every = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *headers]
    return Response.of(status, every, json.dumps(document).encode())


def page_response(
    request: Request, path: str, entries: Sequence[Any], to_json: Callable[[Any], Any]
) -> Response:
    """One page of a list, with Harbor's paging headers."""
    number = _number(request, "page", 1, 1 << 30)
    size = _number(request, "page_size", _PAGE, _LARGEST)
    start = (number - 1) * size
    headers: Headers = [("X-Total-Count", str(len(entries)))]
    links = []
    if number > 1:
        links.append(_link(request, path, number - 1, size, "prev"))
    if start + size < len(entries):
        links.append(_link(request, path, number + 1, size, "next"))
    if links:
        headers.append(("Link", " , ".join(links)))
    return json_response([to_json(item) for item in entries[start : start + size]], headers=headers)


def read_body(request: Request) -> dict[str, Any]:
    """The JSON object in the body.

    Only application/json: a cross-site form cannot send that.
    """
    if request.content_type != "application/json":
        raise problem(400, "send application/json")
    try:
        body = json.loads(request.read(_LIMIT))
    except (ValueError, RecursionError):
        raise problem(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise problem(400, "the body is not a JSON object")
    return body


def take(body: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """A member of the body. Raises Problem 400 for another type."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise problem(400, f"{name} is not a {kind.__name__}")
    return value


def texts(body: dict[str, Any], name: str) -> tuple[str, ...]:
    """A list of strings in the body, empty if it is missing. Raises Problem 400."""
    values = take(body, name, list, [])
    if (
        not all(isinstance(scope, str) and 0 < len(scope) <= 256 for scope in values)
        or len(values) > 100
    ):
        raise problem(400, f"{name} is not a list of short strings")
    return tuple(values)


def permissions_of(body: dict[str, Any]) -> tuple[Permission, ...]:
    """The permissions of a robot. `repositories` and `tags` are an extension: shell patterns."""
    return tuple(_permission(entry) for entry in take(body, "permissions", list, []))


def _permission(entry: Any) -> Permission:
    if not isinstance(entry, dict):
        raise problem(400, "a permission is not an object")
    kind = take(entry, "kind", str, "project")
    namespace = take(entry, "namespace", str, "")
    if kind not in ("system", "project") or not namespace:
        raise problem(400, "a permission has kind system or project, and a namespace")
    access = tuple(_access(item) for item in take(entry, "access", list, []))
    return Permission(namespace, access, kind, texts(entry, "repositories"), texts(entry, "tags"))


def _access(entry: Any) -> RobotAccess:
    if not isinstance(entry, dict):
        raise problem(400, "an access is not an object")
    access = RobotAccess(take(entry, "resource", str, ""), take(entry, "action", str, ""))
    if take(entry, "effect", str, "allow") not in ("allow", ""):
        raise problem(400, "the only supported effect is allow")
    if not _WORD.fullmatch(access.resource) or not _WORD.fullmatch(access.action):
        raise problem(400, f"invalid access: {access.resource[:64]!r}, {access.action[:64]!r}")
    return access


def robot_json(robot: Robot) -> dict[str, Any]:
    """A robot without its secrets."""
    return {
        "id": robot.id,
        "name": robot.login,
        "description": robot.description,
        "level": "project" if robot.project else "system",
        "duration": robot.duration,
        "disable": robot.disabled,
        "editable": True,
        "expires_at": int(robot.expires) or -1,
        "permissions": [_permission_json(entry) for entry in robot.permissions],
        "networks": list(robot.networks),
        "creator_type": "local",
        "creation_time": time_text(robot.created),
        "update_time": time_text(robot.updated),
    }


def _permission_json(entry: Permission) -> dict[str, Any]:
    access = [{"resource": grant.resource, "action": grant.action} for grant in entry.access]
    to_json: dict[str, Any] = {"kind": entry.kind, "namespace": entry.namespace, "access": access}
    if entry.repositories:
        to_json["repositories"] = list(entry.repositories)
    if entry.tags:
        to_json["tags"] = list(entry.tags)
    return to_json


def project_json(project: Project, repositories: int) -> dict[str, Any]:
    return {
        "project_id": project.id,
        "name": project.name,
        "owner_name": project.owner,
        "metadata": {"public": "true" if project.public else "false"},
        "repo_count": repositories,
        "deleted": False,
        "creation_time": time_text(project.created),
        "update_time": time_text(project.created),
    }


def time_text(at: float) -> str:
    return rfc3339(at, "milliseconds")


def _number(request: Request, name: str, default: int, largest: int) -> int:
    text = request.parameter(name)
    if not text:
        return default
    if not re.fullmatch("-?[0-9]{1,9}", text) or (name == "page" and int(text) < 1):
        raise problem(400, f"{name} is not a valid number")
    return min(int(text), largest) if int(text) > 0 else largest


def _link(request: Request, path: str, number: int, size: int, relation: str) -> str:
    others = [
        (key, value)
        for key, values in request.query.items()
        for value in values
        if key not in ("page", "page_size")
    ]
    query = urlencode([*others, ("page", number), ("page_size", size)])
    return f'<{BASE}{path}?{query}>; rel="{relation}"'


def _text(error: ShiplineError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
