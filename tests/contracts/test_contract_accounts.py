"""Accounts: a running node and a data directory do and refuse the same, in the same words."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from guarded import ADMIN, Guarded, basic, guarded
from shipline.cli.registry_node import Accounts, open_accounts
from shipline.errors import UsageError

WAYS = ("data", "node")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("accounts") / "data", "--accounts") as node:
        yield node


@pytest.fixture(params=WAYS)
def accounts(
    request: pytest.FixtureRequest,
    served: Guarded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cheap_hashes: None,
) -> Iterator[Accounts]:
    """Both ways to the accounts of one running node, which begins with its administrator alone."""
    auth = base64.b64encode(f"{ADMIN}:{served.password}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {served.address: {"auth": auth}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "config.json"))
    by_data = request.param == "data"
    with open_accounts(
        served.data if by_data else None, None if by_data else served.address
    ) as found:
        yield found
        for robot in found.listed("robots"):
            found.do("remove-robot", login=robot["name"])
        for project in found.listed("projects"):
            found.do("remove-project", name=project["name"])
        for user in found.listed("users"):
            if user["name"] != ADMIN:
                found.do("remove-user", name=user["name"])


def named(accounts: Accounts, kind: str, name: str) -> dict[str, object]:
    (found,) = [one for one in accounts.listed(kind) if one["name"] == name]
    return found


def test_what_was_added_is_listed_and_works_at_once(accounts: Accounts, served: Guarded) -> None:
    accounts.do("add-user", name="bob", password="password 1")
    accounts.do("add-project", name="team", public=True)
    accounts.do("set-member", project="team", user="bob", role="developer")
    assert named(accounts, "users", "bob")["disabled"] is False
    team = {"name": "team", "public": True, "members": {"bob": "developer"}}
    assert accounts.listed("projects") == [team]
    bob = basic("bob", "password 1")
    assert served.push("team/app", "v1", bob).status == 201
    accounts.do("set-user", name="bob", disabled=True)
    assert named(accounts, "users", "bob")["disabled"] is True
    assert served.push("team/app", "v2", bob).status == 401


def test_a_secret_comes_once_and_is_never_listed(accounts: Accounts, served: Guarded) -> None:
    accounts.do("add-project", name="team")
    grant = {"resource": "repository", "action": "pull"}
    entry = {"kind": "project", "namespace": "team", "access": [grant]}
    made = accounts.do("add-robot", name="ci", project="team", permissions=[entry])
    assert made["login"] == "robot$team+ci" and made["secret"].startswith("shp_")
    again = accounts.do("rotate-robot", login=made["login"])["secret"]
    assert again != made["secret"]
    told = json.dumps([accounts.listed(kind) for kind in ("users", "projects", "robots", "tokens")])
    told += json.dumps(list(accounts.audit(0)))
    assert made["login"] in told and made["secret"] not in told and again not in told
    statuses = [
        served.call("GET", "/v2/", None, basic(made["login"], secret)).status
        for secret in (made["secret"], again)
    ]
    assert statuses == [401, 200]


@pytest.mark.parametrize(
    ("operation", "arguments", "reason"),
    [
        ("add-project", {"name": "team"}, "project team already exists"),
        ("add-project", {"name": "Team!"}, "invalid project name"),
        ("add-user", {"name": "bob", "password": "short"}, "a password must have 8 to"),
        ("add-user", {"name": "bob"}, "password is missing"),
        ("remove-user", {"name": "nobody"}, "no such user: nobody"),
        ("set-user", {"name": ADMIN, "disabled": True}, "last administrator"),
        ("set-member", {"project": "none", "user": ADMIN, "role": "guest"}, "no such project"),
        ("rotate-robot", {"login": "robot$none"}, "no such robot: robot$none"),
        ("no-such-thing", {}, "unknown operation no-such-thing"),
    ],
)
def test_what_is_impossible_is_refused_with_the_reason(
    accounts: Accounts, operation: str, arguments: dict[str, object], reason: str
) -> None:
    accounts.do("add-project", name="team")
    before = [accounts.listed(kind) for kind in ("users", "projects", "robots")]
    with pytest.raises(UsageError) as refused:
        accounts.do(operation, **arguments)
    assert reason in refused.value.message and "POST" not in refused.value.message
    assert [accounts.listed(kind) for kind in ("users", "projects", "robots")] == before


def test_the_audit_log_has_what_was_done_in_order(accounts: Accounts) -> None:
    for name in ("one", "two"):
        accounts.do("add-project", name=name)
    lines = [line for line in accounts.audit(50) if line["kind"] == "account"][-2:]
    assert [line["message"].partition(",")[0] for line in lines] == [
        "project one added",
        "project two added",
    ]
    assert all(line["actor"] for line in lines) and len(list(accounts.audit(1))) == 1
