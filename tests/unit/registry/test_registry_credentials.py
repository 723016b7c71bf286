"""config.json, auth.json and helpers, as docker and containers-auth.json(5) have them."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from commands import hash_cheaply
from shipline.errors import AuthError, ConfigError, ShiplineError
from shipline.registry import Credentials, keychain_from
from shipline.registry.credentials import get_from_helper
from shipline.registry.keychain import STORE_FILE, CredentialStore
from shipline.registry.login import LoginStore, forget_login, logins, save_login

HUB = "https://index.docker.io/v1/"


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(place: Path, document: object) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(document))
    return place


def docker(tmp_path: Path, document: object) -> dict[str, str]:
    write(tmp_path / "config.json", document)
    return {"DOCKER_CONFIG": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def helper(tmp_path: Path, name: str, script: str) -> None:
    place = tmp_path / f"docker-credential-{name}"
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)


@pytest.mark.parametrize(
    "key",
    [
        "reg.example.com:5000",
        "https://reg.example.com:5000",
        "https://reg.example.com:5000/v1/",
        "http://reg.example.com:5000/v2/",
        "REG.example.com:5000",
    ],
)
def test_a_host_is_found_under_every_spelling(tmp_path: Path, key: str) -> None:
    keychain = keychain_from(docker(tmp_path, {"auths": {key: basic("alice", "se:cret")}}))
    found = keychain.credentials("reg.example.com:5000", "team/app")
    assert found == Credentials("alice", "se:cret")


@pytest.mark.parametrize("key", [HUB, "docker.io", "index.docker.io", "registry-1.docker.io"])
def test_the_hub_has_many_names(tmp_path: Path, key: str) -> None:
    keychain = keychain_from(docker(tmp_path, {"auths": {key: basic("alice", "secret")}}))
    assert keychain.credentials("docker.io", "library/busybox") == Credentials("alice", "secret")


def test_the_longest_namespace_counts(tmp_path: Path) -> None:
    auths = {
        "reg.io": basic("host", "1"),
        "reg.io/team": basic("team", "2"),
        "reg.io/team/app": basic("app", "3"),
    }
    keychain = keychain_from(docker(tmp_path, {"auths": auths}))
    names = ("team/app", "team/app/x", "team/application", "other")
    found = [keychain.credentials("reg.io", name) for name in names]
    assert [one and one.username for one in found] == ["app", "app", "team", "host"]


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("reg.io/v2", ["v2/app"]),
        ("reg.io/v1", []),
        ("reg.io/team/", ["team/app"]),
        ("REG.io/team", ["team/app"]),
        ("reg.io/tea", []),
        ("*.io/team", ["team/app"]),
        ("*.IO/team/", ["team/app"]),
        ("reg.io/v2/", ["team/app", "v2/app"]),
        ("https://*.io/v1/", ["team/app", "v2/app"]),
        ("https://*.io/team", ["team/app"]),
    ],
)
def test_a_namespace_is_for_its_repositories(tmp_path: Path, key: str, found: list[str]) -> None:
    keychain = keychain_from(docker(tmp_path, {"auths": {key: basic("alice", "x")}}))
    names = ("team/app", "v2/app")
    assert [name for name in names if keychain.credentials("reg.io", name)] == found


@pytest.mark.parametrize(
    ("key", "hosts"),
    [
        ("127.0.0.*", ["127.0.0.1"]),
        ("127.0.0.*:9999", ["127.0.0.1:9999"]),
        ("127.0.0.1:*", []),
        ("registry.*", ["registry.corp"]),
        ("registry.*:9999", ["registry.corp:9999"]),
        ("*", ["localhost"]),
        ("*:5000", ["localhost:5000", "[::1]:5000"]),
        ("REGISTRY.c*", ["registry.corp"]),
    ],
)
def test_wildcards_do_not_stand_for_ports(tmp_path: Path, key: str, hosts: list[str]) -> None:
    keychain = keychain_from(docker(tmp_path, {"auths": {key: basic("alice", "x")}}))
    every = ["127.0.0.1", "127.0.0.1:9999", "registry.corp", "registry.corp:9999"]
    every += ["localhost", "localhost:5000", "[::1]:5000", "registry.corp.evil"]
    assert [host for host in every if keychain.credentials(host, "x")] == hosts


def test_every_kind_of_entry_is_read(tmp_path: Path) -> None:
    auths: dict[str, dict[str, str]] = {
        "a.io": {"username": "u", "password": "p"},
        "b.io": {"identitytoken": "idt", **basic("<token>", "")},
        "c.io": {"registrytoken": "rt"},
        "d.io": {},
        "e.io": {"auth": base64.b64encode(b"u:p\0\0").decode()},
        "f.io": {"auth": "%%%"},
    }
    keychain = keychain_from(docker(tmp_path, {"auths": auths}))
    assert [keychain.credentials(host, "x") for host in sorted(auths)] == [
        Credentials("u", "p"),
        Credentials("<token>", "", "idt"),
        Credentials(registry_token="rt"),
        None,
        Credentials("u", "p"),
        None,
    ]


def test_files_are_asked_in_order(tmp_path: Path) -> None:
    def entry(name: str, *hosts: str) -> object:
        return {"auths": {host: basic(name, "x") for host in hosts}}

    home, run = tmp_path / "home", tmp_path / "run"
    write(home / ".docker/config.json", entry("docker", "a.io"))
    write(run / "containers/auth.json", entry("runtime", "a.io", "b.io"))
    write(home / ".config/containers/auth.json", entry("config", "b.io", "c.io"))
    write(home / ".dockercfg", {"d.io": basic("old", "x")})
    explicit = write(tmp_path / "explicit.json", entry("explicit", "a.io"))
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(run)}

    def users(environment: dict[str, str]) -> list[str | None]:
        keychain = keychain_from(environment)
        found = [keychain.credentials(host, "x") for host in ("a.io", "b.io", "c.io", "d.io")]
        return [one.username if one else None for one in found]

    assert users(environment) == ["docker", "runtime", "config", "old"]
    only = {**environment, "REGISTRY_AUTH_FILE": str(explicit)}
    assert users(only) == ["explicit", None, None, None]
    assert users({}) == [None] * 4


def test_a_helper_of_the_host_comes_before_the_store(tmp_path: Path) -> None:
    answer = """read server; echo "{\\"Username\\":\\"$0\\",\\"Secret\\":\\"$server\\"}" """
    helper(tmp_path, "mine", answer)
    helper(tmp_path, "all", answer)
    environment = docker(tmp_path, {"credHelpers": {"a.io": "mine"}, "credsStore": "all"})
    keychain = keychain_from(environment)

    def request_token(host: str) -> tuple[str, str]:
        found = keychain.credentials(host, "x")
        assert found is not None
        return Path(found.username).name, found.password

    assert request_token("a.io") == ("docker-credential-mine", "a.io")
    assert request_token("b.io:5000") == ("docker-credential-all", "b.io:5000")
    assert request_token("docker.io") == ("docker-credential-all", HUB)


def test_a_helper_that_knows_nothing_leaves_it_to_auths(tmp_path: Path) -> None:
    helper(tmp_path, "none", "echo credentials not found in native keychain; exit 1")
    document = {"credsStore": "none", "auths": {"a.io": basic("alice", "x"), "b.io": {}}}
    keychain = keychain_from(docker(tmp_path, document))
    assert keychain.credentials("a.io", "x") == Credentials("alice", "x")
    assert keychain.credentials("b.io", "x") is None


def test_a_helper_may_hold_an_identity_token(tmp_path: Path) -> None:
    helper(tmp_path, "id", """echo '{"Username":"<token>","Secret":"long"}'""")
    environment = docker(tmp_path, {"credsStore": "id"})
    found = keychain_from(environment).credentials("a.io", "x")
    assert found == Credentials("<token>", identity_token="long")


@pytest.mark.parametrize(
    "script", ["exit 3", "echo nonsense", "echo '[]'", "echo locked; exit 1", "echo '{}'"]
)
def test_a_helper_that_fails_is_reported(tmp_path: Path, script: str) -> None:
    helper(tmp_path, "bad", script)
    environment = docker(tmp_path, {"credsStore": "bad"})
    with pytest.raises(AuthError, match="bad") as raised:
        keychain_from(environment).credentials("a.io", "x")
    assert "credsStore" in raised.value.hint


@pytest.mark.parametrize("name", ["../x", "a b", "a;b", "", "-x", "a/b", "a\n"])
def test_only_names_of_helpers_are_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShiplineError, match="not a valid helper name"):
        get_from_helper(name, "a.io")


def test_a_missing_helper_is_reported() -> None:
    with pytest.raises(AuthError, match="is not installed"):
        get_from_helper("surely-not-installed", "a.io")


def test_a_helper_is_asked_once(tmp_path: Path) -> None:
    helper(
        tmp_path, "once", f"""echo x >>{tmp_path}/calls; echo '{{"Username":"u","Secret":"s"}}'"""
    )
    keychain = keychain_from(docker(tmp_path, {"credsStore": "once"}))
    assert keychain.credentials("a.io", "x") == keychain.credentials("a.io", "x")
    assert (tmp_path / "calls").read_text() == "x\n"


def test_a_helper_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipline.registry.credentials._TIMEOUT_S", 0.3)
    helper(tmp_path, "slow", "exec sleep 600")
    begin = time.monotonic()
    with pytest.raises(AuthError, match="timed out"):
        get_from_helper("slow", "a.io", {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert time.monotonic() - begin < 60


def test_a_helper_that_prints_without_end_is_ended(tmp_path: Path) -> None:
    helper(tmp_path, "endless", f"yes 0123456789; echo >{tmp_path}/whole")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    begin = time.monotonic()
    with pytest.raises(AuthError, match="malformed"):
        get_from_helper("endless", "a.io", environment)
    assert time.monotonic() - begin < 30


def test_what_a_helper_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    answer = """echo '{"Username":"u","Secret":"s"}'"""
    helper(tmp_path, "agent", f"sleep 40 & echo $! >{tmp_path}/agent; {answer}")
    begin = time.monotonic()
    found = get_from_helper("agent", "a.io", {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    os.kill(int((tmp_path / "agent").read_text()), signal.SIGKILL)
    assert found == Credentials("u", "s")
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("before", ["", "echo a warning;"])
def test_a_helper_that_fails_does_not_show_what_it_printed(tmp_path: Path, before: str) -> None:
    printed = """echo '{"Username":"u","Secret":"hunter2"}'"""
    helper(tmp_path, "leak", f"{before} {printed}; exit 1")
    with pytest.raises(AuthError) as raised:
        get_from_helper("leak", "a.io", {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert "hunter2" not in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\xff"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"config\.json"):
        keychain_from({"DOCKER_CONFIG": str(tmp_path)}).credentials("a.io", "x")


@pytest.mark.parametrize("text", ["", " \n", None])
def test_a_file_without_text_and_a_directory_are_none(tmp_path: Path, text: str | None) -> None:
    place = tmp_path / "config.json"
    place.mkdir() if text is None else place.write_text(text)
    assert keychain_from({"DOCKER_CONFIG": str(tmp_path)}).credentials("a.io", "x") is None


def test_a_login_leaves_the_link_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "config.json").symlink_to("real.json")
    environment = {"DOCKER_CONFIG": str(tmp_path)}
    save_login("a.io", Credentials("alice", "x"), environment, LoginStore.PLAIN)
    assert (tmp_path / "config.json").readlink() == Path("real.json")
    assert list(json.loads((tmp_path / "real.json").read_text())["auths"]) == ["a.io"]


def test_logins_at_once_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hash_cheaply(monkeypatch.setattr)
    environment = {"DOCKER_CONFIG": str(tmp_path), "SHIPLINE_PASSPHRASE": "x"}
    hosts = [f"{name}.io" for name in "abcdefgh"]
    for store in (LoginStore.PLAIN, LoginStore.STORE_FILE):
        ready = threading.Barrier(len(hosts))

        def begin(host: str, store: LoginStore = store, ready: threading.Barrier = ready) -> None:
            ready.wait()
            save_login(host, Credentials(host, "x"), environment, store)

        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(begin, hosts))
        assert list(logins(environment)) == hosts
    store_file = CredentialStore(tmp_path / STORE_FILE, "x")
    assert store_file.users() == {host: host for host in hosts}


def test_logouts_at_once_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hash_cheaply(monkeypatch.setattr)
    environment = {"DOCKER_CONFIG": str(tmp_path), "SHIPLINE_PASSPHRASE": "x"}
    hosts = [f"{name}.io" for name in "abcdefgh"]
    for host in hosts:
        save_login(host, Credentials(host, "x"), environment)
    ready = threading.Barrier(len(hosts))

    def begin(host: str) -> bool:
        ready.wait()
        return forget_login(host, environment)

    with ThreadPoolExecutor(len(hosts)) as pool:
        assert all(pool.map(begin, hosts))
    assert logins(environment) == ()
    assert CredentialStore(tmp_path / STORE_FILE, "x").users() == {}
