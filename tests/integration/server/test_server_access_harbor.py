"""Harbor's API as its clients call it: projects, members, robots; and the token service."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from guarded import ADMIN, Guarded, basic, bearer, guarded
from spec_client import Answer

ROBOT: dict[str, Any] = {
    "name": "deploy",
    "description": "pulls",
    "level": "project",
    "duration": 30,
    "disable": False,
    "permissions": [
        {
            "kind": "project",
            "namespace": "lib",
            "access": [
                {"resource": "repository", "action": "pull"},
                {"resource": "repository", "action": "push", "effect": "allow"},
                {"resource": "artifact", "action": "read"},
            ],
        }
    ],
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    data = tmp_path_factory.mktemp("harbor") / "data"
    config = data.with_name("shipline.yaml")
    config.write_text("version: 1\nregistry: {policy: {quotas: [{project: held, size: 500GB}]}}\n")
    options = ("--accounts", "--public-project", "lib", "--config", str(config))
    with guarded(data, *options) as node:
        yield node


def made(running: Guarded, **changes: Any) -> dict[str, Any]:
    answer = running.api("POST", "/robots", {**ROBOT, **changes})
    assert answer.status == 201, answer.body
    found: dict[str, Any] = answer.json
    assert answer["Location"] == f"/api/v2.0/robots/{found['id']}"
    return found


def form(running: Guarded, **fields: str) -> Answer:
    body = urlencode({"service": "shipline", "client_id": "test", **fields}).encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return running.call("POST", "/service/token", body, kind)


def test_what_clients_ask_first(running: Guarded) -> None:
    assert running.call("GET", "/api/v2.0/ping").body == b"Pong"
    assert running.call("GET", "/api/v2.0/systeminfo").json["auth_mode"] == "db_auth"
    assert running.call("GET", "/api/v2.0/health").json["status"] == "healthy"
    assert running.api("GET", "/users/current").json["sysadmin_flag"] is True
    nobody = running.api("GET", "/users/current", headers={})
    assert (nobody.status, nobody.codes) == (401, ["UNAUTHORIZED"])


def test_a_robot_from_its_making_to_its_end(running: Guarded) -> None:
    robot = made(running)
    assert robot["name"] == "robot$lib+deploy" and len(robot["secret"]) > 40
    assert 29 * 86400 < robot["expires_at"] - time.time() <= 30 * 86400
    login = basic(robot["name"], robot["secret"])
    assert running.call("GET", "/v2/", None, login).status == 200
    place = f"/robots/{robot['id']}"
    shown = running.api("GET", place).json
    assert shown["permissions"][0]["access"][2] == {"resource": "artifact", "action": "read"}
    assert shown["level"] == "project" and shown["disable"] is False
    assert running.api("PUT", place, {**shown, "disable": True}).status == 200
    assert running.call("GET", "/v2/", None, login).status == 401
    assert running.api("PUT", place, {**shown, "disable": False}).status == 200
    fresh = running.api("PATCH", place, {"secret": ""})
    assert fresh.status == 200 and fresh.json["secret"] not in ("", robot["secret"])
    assert running.call("GET", "/v2/", None, login).status == 401
    renewed = basic(robot["name"], fresh.json["secret"])
    assert running.call("GET", "/v2/", None, renewed).status == 200
    for chosen in ("weak", "Chosen-One-1"):
        assert running.api("PATCH", place, {"secret": chosen}).status == 400
        assert running.call("GET", "/v2/", None, basic(robot["name"], chosen)).status == 401
    assert running.api("PUT", place, {**shown, "level": "system"}).status == 400
    assert running.api("DELETE", place).status == 200
    assert running.api("GET", place).codes == ["NOT_FOUND"]


def test_numbers_without_end_are_no_failures_of_the_node(running: Guarded) -> None:
    robot = made(running, name="numbers")
    for overlap in (10**400, -1, 10**9):
        answer = running.api("PATCH", f"/robots/{robot['id']}", {"overlap": overlap})
        assert answer.status == 400
    assert running.api("GET", f"/projects/{'9' * 5000}/members").status == 404
    assert running.api("PUT", f"/robots/{robot['id']}", {"duration": 10**400}).status == 400


def test_a_secret_overlaps_where_it_is_asked_for(running: Guarded) -> None:
    robot = made(running, name="overlap")
    fresh = running.api("PATCH", f"/robots/{robot['id']}", {"overlap": 60}).json["secret"]
    for secret in (robot["secret"], fresh):
        assert running.call("GET", "/v2/", None, basic(robot["name"], secret)).status == 200


def test_lists_come_in_pages(running: Guarded) -> None:
    for number in range(5):
        made(running, name=f"page{number}", level="system")
    first = running.api("GET", "/robots?page=1&page_size=2&q=name%3D~page")
    assert (first.status, first["X-Total-Count"], len(first.json)) == (200, "5", 2)
    assert first["Link"] == ('</api/v2.0/robots?q=name%3D~page&page=2&page_size=2>; rel="next"')
    last = running.api("GET", "/robots?page=3&page_size=2&q=name%3D~page")
    assert len(last.json) == 1 and 'rel="prev"' in (last["Link"] or "")
    assert running.api("GET", "/robots?page=0").status == 400
    assert running.api("GET", "/robots?page=9&page_size=100").json == []


def test_projects_and_members(running: Guarded) -> None:
    created = running.api("POST", "/projects", {"project_name": "app", "metadata": {}})
    assert created.status == 201
    number = (created["Location"] or "").rpartition("/")[2]
    again = running.api("POST", "/projects", {"project_name": "app"})
    assert (again.status, again.codes) == (409, ["CONFLICT"])
    assert running.api("HEAD", "/projects?project_name=app").status == 200
    assert running.api("HEAD", "/projects?project_name=none").status == 404
    assert running.api("GET", "/projects/app").json["project_id"] == int(number)
    assert running.api("GET", f"/projects/{number}").json["metadata"] == {"public": "false"}
    bob = running.user("bob")
    assert running.api("GET", "/projects/app", headers=bob).status == 404
    member = {"role_id": 1, "member_user": {"username": "bob"}}
    added = running.api("POST", "/projects/app/members", member)
    assert added.status == 201
    assert running.api("GET", "/projects/app", headers=bob).status == 200
    members = running.api("GET", "/projects/app/members", headers=bob).json
    assert {one["entity_name"]: one["role_name"] for one in members}["bob"] == "projectAdmin"
    assert running.api("PUT", "/projects/app", {"metadata": {"public": "true"}}).status == 200
    assert running.api("GET", "/projects?name=app", headers={}).json[0]["name"] == "app"
    place = (added["Location"] or "").removeprefix("/api/v2.0")
    assert running.api("PUT", place, {"role_id": 3}).status == 200
    assert running.api("GET", "/projects/app/members", headers=bob).status == 403
    assert running.api("DELETE", place).status == 200
    assert running.api("DELETE", "/projects/app", headers=bob).status == 403
    assert running.api("DELETE", "/projects/app").status == 200


def test_a_project_counts_what_it_holds_and_not_what_is_deeper(running: Guarded) -> None:
    for name in ("held", "held/deep"):
        running.project(name)
    for repository in ("held", "held/one", "held/deep/two", "held/deep/three", "helder/x"):
        assert running.push(repository, "v1", running.admin).status == 201
    assert running.blob("held/one", b"x" * 1000, running.admin).status == 201
    counted = {one["name"]: one["repo_count"] for one in running.api("GET", "/projects").json}
    assert (counted["held"], counted["held/deep"]) == (2, 2)
    assert running.api("GET", "/projects/held").json["repo_count"] == 2
    member = running.user("dora", held="developer")
    found = running.api("GET", "/projects/held/summary", headers=member).json
    assert (found["repo_count"], found["developer_count"]) == (2, 1)
    assert found["quota"]["hard"] == {"storage": 500_000_000_000}
    assert 1000 < found["quota"]["used"]["storage"] < 1500
    assert running.api("GET", "/projects/lib/summary", headers=member).status == 200
    assert running.api("GET", "/projects/held/summary", headers={}).status == 404


def test_a_projects_administrator_manages_its_robots_alone(running: Guarded) -> None:
    running.project("mine")
    eve = running.user("eve", mine="admin")
    inside = {**ROBOT["permissions"][0], "namespace": "mine"}
    body = {**ROBOT, "name": "inner", "permissions": [inside]}
    robot = running.api("POST", "/robots", body, eve)
    assert robot.status == 201
    other = made(running, name="outer")
    assert running.api("GET", f"/robots/{robot.json['id']}", headers=eve).status == 200
    assert running.api("GET", f"/robots/{other['id']}", headers=eve).status == 404
    assert running.api("DELETE", f"/robots/{other['id']}", headers=eve).status == 404
    assert running.api("POST", "/robots", {**body, "level": "system"}, eve).status == 403
    assert running.api("POST", "/robots", ROBOT, eve).status in (403, 404)
    assert running.api("GET", "/robots", headers=eve).status == 403
    listed = running.api("GET", "/robots?q=Level%3Dproject,ProjectID%3Dmine", headers=eve)
    assert [one["name"] for one in listed.json] == ["robot$mine+inner"]


def test_the_first_version_below_a_project(running: Guarded) -> None:
    running.project("old")
    body = {"name": "v1", "access": [{"resource": "/project/1/repository", "action": "push"}]}
    robot = running.api("POST", "/projects/old/robots", body)
    assert robot.status == 201 and robot.json["name"] == "robot$old+v1"
    login = basic(robot.json["name"], robot.json["secret"])
    assert running.push("old/app", "v1", login).status == 201
    place = f"/projects/old/robots/{robot.json['id']}"
    assert len(running.api("GET", "/projects/old/robots").json) == 1
    assert running.api("PUT", place, {"disable": True}).status == 200
    assert running.push("old/app", "v2", login).status == 401
    assert running.api("DELETE", place).status == 200


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Upper"},
        {"name": ""},
        {"name": 7},
        {"level": "galaxy"},
        {"duration": 0},
        {"duration": "long"},
        {"duration": True},
        {"permissions": []},
        {"permissions": [7]},
        {"permissions": [{"kind": "project"}]},
        {"permissions": [{"kind": "project", "namespace": "lib", "access": [{}]}]},
        {"secret": "Chosen-One-1"},
        {"networks": ["everywhere"]},
    ],
    ids=str,
)
def test_malformed_bodies_are_refused(running: Guarded, change: dict[str, Any]) -> None:
    answer = running.api("POST", "/robots", {**ROBOT, "name": "bad", **change})
    assert (answer.status, answer.codes) == (400, ["BAD_REQUEST"])
    assert answer.json["errors"][0]["message"]


def test_a_cross_site_form_changes_nothing(running: Guarded) -> None:
    body = json.dumps({**ROBOT, "name": "forged"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"Content-Type": kind, **running.admin}
        assert running.call("POST", "/api/v2.0/robots", body, headers).status == 400


def test_a_token_has_the_part_of_the_scope_that_is_allowed(running: Guarded) -> None:
    robot = made(running, name="scoped")
    login = basic(robot["name"], robot["secret"])
    token = running.token(login, "repository:lib/app:pull,push,delete", "repository:x/y:pull")
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "==="))
    assert claims["access"] == [
        {"type": "repository", "name": "lib/app", "actions": ["pull", "push"]}
    ]
    assert claims["sub"] == robot["name"] and 60 <= claims["exp"] - claims["iat"] <= 3600
    assert running.call("GET", "/service/token?service=other", None, login).status == 400
    assert running.call("GET", "/service/token", None, basic(ADMIN, "wrong")).status == 401


@pytest.mark.parametrize("name", ["lib/app\x00", "LIB/app", "lib//app", "lib/" + "x" * 300, "*"])
def test_no_name_is_signed_that_no_repository_has(running: Guarded, name: str) -> None:
    token = running.token(running.admin, f"repository:{name}:pull,push")
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "==="))
    assert claims["access"] == []


def test_oauth_gives_and_takes_refresh_tokens(running: Guarded) -> None:
    scope = "repository:lib/app:pull registry:catalog:*"
    first = form(
        running,
        grant_type="password",
        username=ADMIN,
        password=running.password,
        access_type="offline",
        scope=scope,
    )
    assert first.status == 200 and first.json["scope"] == scope
    refresh = first.json["refresh_token"]
    again = form(running, grant_type="refresh_token", refresh_token=refresh, scope=scope)
    assert again.status == 200
    headers = bearer(again.json["access_token"])
    assert running.call("GET", "/v2/_catalog", None, headers).status == 200
    assert running.call("GET", "/v2/", None, bearer(refresh)).status == 401
    with running.accounts() as accounts:
        accounts.revoke(ADMIN)
    assert form(running, grant_type="refresh_token", refresh_token=refresh).status == 401
    online = form(running, grant_type="password", username=ADMIN, password=running.password)
    assert "refresh_token" not in online.json and online.json["scope"] == ""


@pytest.mark.parametrize("grant", ["", "client_credentials", "authorization_code"])
def test_other_grants_are_refused(running: Guarded, grant: str) -> None:
    other = form(running, grant_type=grant)
    expected = "unsupported_grant_type" if grant else "invalid_request"
    assert (other.status, other.json["error"]) == (400, expected)
    for wrong in (
        form(running, grant_type="refresh_token", refresh_token=grant),
        form(running, grant_type="password", username="x", password=grant),
    ):
        assert (wrong.status, wrong.json["error"]) == (401, "invalid_grant")
        assert wrong.json["errors"][0]["message"] == wrong.json["error_description"]


def test_public_keys_verify_and_private_ones_stay(running: Guarded) -> None:
    keys = running.call("GET", "/.well-known/jwks.json").json["keys"]
    assert {"d"}.isdisjoint(*keys) and keys[0]["crv"] == "P-256"


def test_challenges_name_the_scope_and_nothing_strange(running: Guarded) -> None:
    answer = running.call("GET", "/v2/lib2/app/manifests/v1", None, {"Host": "reg.test:5000"})
    assert answer["WWW-Authenticate"] == (
        'Bearer realm="http://reg.test:5000/service/token",service="shipline",'
        'scope="repository:lib2/app:pull"'
    )
    odd = running.call("GET", "/v2/a%22,x=%22/manifests/v1", None, {"Host": 'x"y'})
    assert odd["WWW-Authenticate"] == (
        'Bearer realm="http://localhost/service/token",service="shipline"'
    )
    assert running.call("GET", "/v2/", None, {"Authorization": "Basic !!"}).status == 401
    assert running.call("GET", "/v2/", None, {"Authorization": "Digest x"}).status == 401


def test_logins_are_counted(running: Guarded) -> None:
    running.call("GET", "/v2/", None, basic("nobody-at-all", "wrong"))
    metrics = running.call("GET", "/metrics", None, running.admin).body.decode()
    assert 'logins_total{result="ok"}' in metrics and 'result="refused"' in metrics
