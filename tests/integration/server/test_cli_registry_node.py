"""`shipline registry gc` and `retention` on a running node, as the administrator alone."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import run_shipline
from guarded import ADMIN, Guarded, basic, bearer, guarded

RULES = """
version: 1
registry:
  policy: {retention: [{tags: ["old-*"], latest: 0}]}
  webhooks: [{name: dead, url: "http://127.0.0.1:9/", allow: [127.0.0.0/8], events: [quota]}]
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    root = tmp_path_factory.mktemp("node")
    (root / "shipline.yaml").write_text(RULES)
    with guarded(root / "data", "--accounts", "--config", str(root / "shipline.yaml")) as running:
        yield running


def registry(
    node: Guarded, place: Path, login: str, *words: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """A command beside the node, logged in with `name:secret`."""
    auth = {"auth": base64.b64encode(login.encode()).decode()}
    (place / "config.json").write_text(json.dumps({"auths": {node.address: auth}}))
    environ = {**os.environ, "DOCKER_CONFIG": str(place), "REGISTRY_AUTH_FILE": ""}
    return run_shipline("registry", *words, cwd=place, environ=environ, stdin=stdin)


def test_a_node_collects_for_its_administrator(node: Guarded, tmp_path: Path) -> None:
    assert node.blob("team/app", b"not needed", node.admin).status == 201
    admin, on = f"{ADMIN}:{node.password}", ("--node", f"http://{node.address}/")
    would = registry(node, tmp_path, admin, "gc", *on, "--grace", "0", "--dry-run")
    assert would.stdout.startswith("would free 10 B in 1 files"), would.stderr
    young = registry(node, tmp_path, admin, "gc", *on)
    assert young.stdout.startswith("freed 0 B in 0 files"), young.stderr
    done = registry(node, tmp_path, admin, "gc", *on, "--grace", "0", "--json")
    assert json.loads(done.stdout)["bytes"] == 10


def test_a_node_retains_by_its_own_rules(node: Guarded, tmp_path: Path) -> None:
    for tag in ("old-1", "new-1"):
        assert node.push("team/tags", tag, node.admin).status == 201
    admin, on = f"{ADMIN}:{node.password}", ("--node", node.address)
    would = registry(node, tmp_path, admin, "retention", *on, "--dry-run")
    assert "would remove  team/tags:old-1  not one of the last 0" in would.stdout, would.stderr
    done = registry(node, tmp_path, admin, "retention", *on)
    assert "removed 1 of 1 tags" in done.stderr
    listed = node.call("GET", "/v2/team/tags/tags/list", None, node.admin)
    assert listed.json["tags"] == ["new-1"]


def test_webhooks_are_listed_tried_and_sent_again(node: Guarded, tmp_path: Path) -> None:
    admin, on = f"{ADMIN}:{node.password}", ("--node", node.address)
    listed = registry(node, tmp_path, admin, "webhook", "ls", *on)
    assert listed.stdout.splitlines()[1].split()[:3] == ["dead", "0", "0"], listed.stderr
    tried = registry(node, tmp_path, admin, "webhook", "test", "dead", *on)
    assert tried.returncode == 6 and "127.0.0.1:9" in tried.stderr
    assert "Traceback" not in tried.stderr
    again = registry(node, tmp_path, admin, "webhook", "redeliver", "dead", *on)
    assert "0 events" in again.stderr
    for name in "none", "NONE":
        unknown = registry(node, tmp_path, admin, "webhook", "test", name, *on)
        assert unknown.returncode == 2 and "configured: dead" in unknown.stderr
        assert "repository" not in unknown.stderr


def test_accounts_of_a_node_are_managed_from_afar(node: Guarded, tmp_path: Path) -> None:
    admin, on = f"{ADMIN}:{node.password}", ("--node", node.address)

    def run(*words: str, login: str = admin, stdin: str = "") -> str:
        done = registry(node, tmp_path, login, *words, *on, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("user", "add", "eve", "--password-stdin", stdin="password 1\n")
    run("project", "add", "far", "--public")
    run("project", "member", "far", "eve", "developer")
    assert "far   public      eve (developer)" in run("project", "ls")
    secret = run("robot", "add", "ci", "--project", "far", "--tag", "v*").strip()
    assert secret.startswith("shp_") and "pull far tags v*  ok" in run("robot", "ls")
    assert run("robot", "rotate", "robot$far+ci", "--overlap", "1h").strip() != secret
    assert node.call("GET", "/v2/", None, basic("robot$far+ci", secret)).status == 200
    run("robot", "set", "robot$far+ci", "--disable")
    run("robot", "rm", "robot$far+ci")
    run("user", "set", "eve", "--disable")
    assert "disabled" in run("user", "ls")
    run("user", "set", "eve", "--enable")
    run("project", "set", "far", "--private")
    run("project", "rm", "far")
    run("token", "revoke", "eve")
    assert run("token", "ls").startswith("ACCOUNT") and run("token", "rotate-key").strip()
    assert "project far removed" in run("audit", "--last", "20")
    (line,) = run("audit", "--last", "1", "--json").splitlines()
    assert json.loads(line)["actor"] == ADMIN and json.loads(line)["address"] == "127.0.0.1"


def test_users_change_their_own_password_and_nothing_else(node: Guarded, tmp_path: Path) -> None:
    node.user("kim")
    on, before = ("--node", node.address), "kim:pass of kim 1"
    words = ("user", "passwd", "--password-stdin", *on)
    done = registry(node, tmp_path, before, *words, stdin="another one\n")
    assert done.returncode == 0, done.stderr
    assert registry(node, tmp_path, before, *words, stdin="a third one\n").returncode == 7
    now = "kim:another one"
    for other in (
        ("user", "passwd", ADMIN, "--password-stdin"),
        ("user", "add", "mallory", "--password-stdin"),
        ("user", "set", "kim", "--admin"),
        ("user", "ls"),
        ("project", "add", "mine"),
        ("token", "rotate-key"),
        ("audit",),
    ):
        refused = registry(node, tmp_path, now, *other, *on, stdin="password 9\n")
        assert refused.returncode == 7 and "Traceback" not in refused.stderr, other
    short = registry(node, tmp_path, now, *words, stdin="short\n")
    assert short.returncode == 2 and "8 to 1024 characters" in short.stderr
    robot = node.robot("passwd", "", "pull")
    body, kind = b'{"password": "password 9"}', {"Content-Type": "application/json"}
    path = "/api/accounts/set-password"
    assert node.call("POST", path, body, {**robot, **kind}).status == 403
    assert node.call("POST", path, body, kind).status == 401
    token = node.token(node.admin, "registry:catalog:*")
    assert node.call("POST", path, body, {**bearer(token), **kind}).status == 401


def test_open_metrics_open_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "shipline.yaml").write_text("version: 1\nregistry: {access: {open-metrics: true}}")
    with guarded(
        tmp_path / "data", "--accounts", "--config", str(tmp_path / "shipline.yaml")
    ) as open_one:
        assert open_one.call("GET", "/metrics").status == 200
        kind = {"Content-Type": "application/json"}
        for path in ("/api/gc", "/api/retention", "/api/accounts/add-user"):
            assert open_one.call("POST", path, b"{}", kind).status == 401
        for path in ("/api/gc", "/api/accounts", "/api/audit", "/api/webhooks"):
            assert open_one.call("GET", path).status == 401


def test_nobody_else_is_obeyed(node: Guarded, tmp_path: Path) -> None:
    node.user("bob")
    bob = registry(node, tmp_path, "bob:pass of bob 1", "gc", "--node", node.address)
    assert bob.returncode == 7 and "403" in bob.stderr and "Traceback" not in bob.stderr
    wrong = registry(node, tmp_path, f"{ADMIN}:wrong", "gc", "--node", node.address)
    assert wrong.returncode == 7 and "Traceback" not in wrong.stderr


def test_one_place_is_named(node: Guarded, tmp_path: Path) -> None:
    for words in (("gc",), ("gc", "--data", ".", "--node", "x"), ("gc", "--node", "a b")):
        done = registry(node, tmp_path, "a:b", *words)
        assert done.returncode == 2 and "Traceback" not in done.stderr, words
    both = registry(node, tmp_path, "a:b", "retention", "--node", "x", "--data", ".")
    assert both.returncode == 2 and "own rules" in both.stderr
