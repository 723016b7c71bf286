"""Private content behind a node, which has an account there: who may pull it is decided here."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import run_shipline
from guarded import basic
from peers import Account, Registry, docker_registry
from served import served
from spec_client import CONFIG, LAYER, MANIFEST, OCTETS, Target, descriptor, sha256, to_json
from upstream_nodes import upstreams

pytestmark = pytest.mark.peers
_ACCOUNT = Account("reader", "correct-horse")
_OWN = {"username": _ACCOUNT.user, "password_variable": "UPSTREAM_PASSWORD"}
_LAYER = b"private layer"


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """docker-registry that wants a login."""
    with docker_registry(tmp_path_factory.mktemp("private"), account=_ACCOUNT) as running:
        push_private(Target(running.url, "team/app"), basic(_ACCOUNT.user, _ACCOUNT.password))
        yield running


def push_private(target: Target, headers: dict[str, str]) -> None:
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    for content in (config, _LAYER):
        begun = target.call("POST", "blobs/uploads/", b"", headers)
        place = begun["Location"] or ""
        place += ("&" if "?" in place else "?") + f"digest={sha256(content)}"
        assert target.call("PUT", place, content, {**headers, **OCTETS}).status == 201
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config, CONFIG),
        "layers": [descriptor(_LAYER, LAYER)],
    }
    kind = {**headers, "Content-Type": MANIFEST}
    assert target.call("PUT", "manifests/v1", to_json(document), kind).status == 201


def statuses(target: Target, headers: dict[str, str]) -> list[int]:
    paths = ("manifests/v1", f"blobs/{sha256(_LAYER)}", "tags/list")
    return [target.call("GET", path, headers=headers).status for path in paths]


def test_the_node_has_an_account_there(tmp_path: Path, private: Registry) -> None:
    section = upstreams(private.port, **_OWN)
    with served(tmp_path, section, UPSTREAM_PASSWORD=_ACCOUNT.password) as node:
        assert statuses(Target(node.url, "team/app"), {}) == [200, 200, 200]
        assert _ACCOUNT.password not in node.log.read_text()
    (tmp_path / "wrong").mkdir()
    with served(tmp_path / "wrong", section, UPSTREAM_PASSWORD="wrong-password") as node:
        refused = Target(node.url, "team/app").call("GET", "manifests/v1")
        assert refused.status == 403 and refused.codes == ["DENIED"]


def test_the_access_rules_of_the_node_apply_to_what_is_cached(
    tmp_path: Path, private: Registry
) -> None:
    section = upstreams(private.port, **_OWN) + "access: {mode: accounts}\n"
    with served(tmp_path, section, UPSTREAM_PASSWORD=_ACCOUNT.password) as node:
        found = re.search("password: ([^ ]+)", node.log.read_text())
        assert found
        target = Target(node.url, "team/app")
        assert statuses(target, {}) == [401, 401, 401]
        assert statuses(target, basic("admin", found[1])) == [200, 200, 200]
        assert statuses(target, {}) == [401, 401, 401]


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_a_robot_of_a_project_pulls_what_is_cached_below_it(
    tmp_path: Path, private: Registry
) -> None:
    section = upstreams(private.port, match="c.io/*", **_OWN) + "access: {mode: accounts}\n"
    with served(tmp_path, section, UPSTREAM_PASSWORD=_ACCOUNT.password) as node:
        data = ("--data", str(node.data))
        assert run_shipline("registry", "project", "add", "c.io/team", *data).returncode == 0
        robot = ("registry", "robot", "add", "edge", "--project", "c.io/team", *data)
        login, secret = "robot$c.io/team+edge", run_shipline(*robot).stdout.strip()

        def inspect(name: str, *words: str) -> bool:
            image = f"docker://{node.address}/{name}:v1"
            argv = ["skopeo", "inspect", "--tls-verify=false", *words, image]
            return subprocess.run(argv, capture_output=True, timeout=60).returncode == 0

        assert inspect("c.io/team/app", "--creds", f"{login}:{secret}")
        assert not inspect("c.io/team/app", "--creds", f"{login}:wrong")
        assert not inspect("c.io/team/app", "--no-creds")
        assert not inspect("c.io/other/app", "--creds", f"{login}:{secret}")
