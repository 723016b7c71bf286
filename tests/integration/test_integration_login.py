"""Logging in to a real registry: what is kept where, who can read it, and that it opens doors."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from commands import run
from guarded import guarded
from peers import Account, Registry, docker_registry, newest
from peers.registry import certificate as self_signed
from shipline.content import MemoryStore
from shipline.oci import Descriptor, Manifest, Reference, media
from shipline.registry import Client, Credentials, StaticKeychain, keychain_from

pytestmark = pytest.mark.peers

SECRET = "pa:ss wörd"
BIN = Path(sys.executable).parent
HELPER = """#!/bin/sh
case "$1" in
  store) cat > "$DOCKER_CONFIG/kept" ;;
  get) cat > /dev/null; [ -e "$DOCKER_CONFIG/kept" ] && cat "$DOCKER_CONFIG/kept" ||
       { echo 'credentials not found in native keychain'; exit 1; } ;;
  erase) rm -f "$DOCKER_CONFIG/kept" ;;
esac
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with docker_registry(
        tmp_path_factory.mktemp("login"), account=Account("alice", SECRET)
    ) as running:
        yield running


class User:
    """A person with a docker configuration of their own."""

    def __init__(self, home: Path, registry: Registry) -> None:
        self.config = home / "config.json"
        self.registry = registry
        self.environ: dict[str, str] = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SHIPLINE")},
            "DOCKER_CONFIG": str(home),
            "HOME": str(home),
            "PATH": f"{BIN}:{home}:{os.environ['PATH']}",
        }

    def run(self, *words: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return run(*words, environ=self.environ | more, stdin=stdin)

    def login(
        self, *words: str, password: str = SECRET, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run(
            *("shipline", "login", "-u", "alice", "--password-stdin", *words),
            self.registry.address,
            stdin=password,
            **more,
        )

    def may_come_in(self, **more: str) -> bool:
        """Whether the registry lets this user ask for a tag that does not exist."""
        name = f"{self.registry.address}/team/app:1"
        done = self.run("shipline", "imagetools", "inspect", name, **more)
        assert done.returncode in (7, 8), done.stderr
        return done.returncode == 8

    @property
    def document(self) -> Mapping[str, object]:
        found: dict[str, object] = json.loads(self.config.read_text())
        return found


@pytest.fixture
def user(tmp_path: Path, registry: Registry) -> User:
    return User(tmp_path, registry)


def test_nothing_is_kept_in_clear_unless_that_is_said(user: User) -> None:
    done = user.login()
    assert done.returncode == 7
    assert "SHIPLINE_PASSPHRASE" in done.stderr and "--store plain" in done.stderr
    assert not user.config.exists()
    done = user.login("--store", "plain")
    assert done.returncode == 0, done.stderr
    assert "plain text" in done.stderr
    kept = base64.b64encode(f"alice:{SECRET}".encode()).decode()
    assert user.document == {"auths": {user.registry.address: {"auth": kept}}}
    assert user.config.stat().st_mode & 0o777 == 0o600
    assert user.may_come_in()


def test_a_file_of_credentials_is_named_as_for_skopeo(user: User, tmp_path: Path) -> None:
    auth = base64.b64encode(f"alice:{SECRET}".encode()).decode()
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {user.registry.address: {"auth": auth}}}))
    name = f"docker://{user.registry.address}/team/app:1"
    flags = ("--tls-verify=false", "--authfile", str(file))
    layout = f"oci:{tmp_path}/layout"
    assert "manifest unknown" in user.run("skopeo", "inspect", *flags, name).stderr
    for words, status in (
        (("shipline", "inspect", *flags, name), 8),
        (("shipline", "copy", "-q", "--src-tls-verify=false", *flags[1:], name, layout), 8),
        (("shipline", "inspect", name), 7),
    ):
        done = user.run(*words)
        assert done.returncode == status, done.stderr


@pytest.mark.parametrize("flag", ["--authfile", "--compat-auth-file", "--registry-config"])
def test_a_login_is_kept_in_the_file_of_skopeo(user: User, tmp_path: Path, flag: str) -> None:
    file, address = tmp_path / "auth.json", user.registry.address
    asked = ("login", "--get-login", "--authfile", str(file), address)
    assert user.run("shipline", *asked).returncode == 7
    done = user.login("--store=plain", "--tls-verify=false", f"{flag}={file}")
    assert done.returncode == 0 and not user.config.exists(), done.stderr
    assert user.run("skopeo", *asked).stdout == user.run("shipline", *asked).stdout == "alice\n"
    assert user.run("shipline", "logout", f"{flag}={file}", address).returncode == 0
    assert user.run("skopeo", *asked).returncode != 0


def test_a_password_for_a_copy_is_not_taken_from_the_command_line(user: User) -> None:
    for flag in ("--src-creds", "--dest-creds", "--to-password"):
        done = user.run("shipline", "copy", flag, f"alice:{SECRET}", "a.lan/b", "oci:c")
        assert done.returncode == 2 and "shipline login" in done.stderr, done.stderr
        assert SECRET not in done.stderr


def test_a_wrong_password_keeps_nothing(user: User) -> None:
    done = user.login("--store", "plain", password="wrong")
    assert done.returncode == 7 and "check the username" in done.stderr, done.stderr
    assert "wrong" not in done.stderr
    assert not user.config.exists()


def test_the_vault_opens_doors_with_its_passphrase_only(user: User) -> None:
    done = user.login(SHIPLINE_PASSPHRASE="open sesame")
    assert done.returncode == 0, done.stderr
    assert user.document == {"credHelpers": {user.registry.address: "shipline"}}
    for file in user.config.parent.iterdir():
        assert SECRET.encode() not in file.read_bytes()
    assert user.may_come_in(SHIPLINE_PASSPHRASE="open sesame")
    locked = user.run("shipline", "imagetools", "inspect", f"{user.registry.address}/a:1")
    assert locked.returncode == 7 and "SHIPLINE_PASSPHRASE" in locked.stderr


def test_other_clients_read_the_vault_as_a_credential_helper(user: User) -> None:
    user.login(SHIPLINE_PASSPHRASE="open sesame")
    name = f"docker://{user.registry.address}/team/app:1"
    done = user.run(
        *("skopeo", "inspect", "--tls-verify=false", "--authfile", str(user.config), name),
        SHIPLINE_PASSPHRASE="open sesame",
    )
    assert "manifest unknown" in done.stderr, done.stderr
    listed = user.run("docker-credential-shipline", "list", SHIPLINE_PASSPHRASE="open sesame")
    assert json.loads(listed.stdout) == {user.registry.address: "alice"}


def test_a_helper_that_is_named_keeps_the_secret(user: User) -> None:
    program = user.config.with_name("docker-credential-mine")
    program.write_text(HELPER)
    program.chmod(0o755)
    user.config.write_text(json.dumps({"credsStore": "mine", "HttpHeaders": {"X-A": "b"}}))
    done = user.login()
    assert done.returncode == 0, done.stderr
    assert user.document == {
        "credsStore": "mine",
        "HttpHeaders": {"X-A": "b"},
        "auths": {user.registry.address: {}},
    }
    kept = json.loads(user.config.with_name("kept").read_text())
    assert kept == {"ServerURL": user.registry.address, "Username": "alice", "Secret": SECRET}
    assert user.may_come_in()
    assert user.run("shipline", "logout", user.registry.address).returncode == 0
    assert not user.config.with_name("kept").exists()
    assert not user.may_come_in()


@pytest.mark.parametrize("store", ["plain", "vault"])
def test_logout_leaves_nothing(user: User, store: str) -> None:
    secret = {"SHIPLINE_PASSPHRASE": "open sesame"}
    assert user.login("--store", store, **secret).returncode == 0
    done = user.run("shipline", "logout", "--all")
    assert done.returncode == 0 and "logged out of" in done.stderr
    for file in user.config.parent.glob("*.json"):
        assert user.registry.address not in file.read_text()
    assert not user.may_come_in(**secret)
    again = user.run("shipline", "logout", user.registry.address)
    assert again.returncode == 0 and "not logged in" in again.stderr


def test_docker_understands_what_login_wrote(user: User) -> None:
    """docker asks the same helper: its own logout empties the vault."""
    user.login(SHIPLINE_PASSPHRASE="open sesame")
    done = user.run("docker", "logout", user.registry.address, SHIPLINE_PASSPHRASE="open sesame")
    assert done.returncode == 0, done.stderr
    assert not user.may_come_in(SHIPLINE_PASSPHRASE="open sesame")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-p", "x", "host.example"), "every process"),
        (("--password-stdin", "host.example"), "--username"),
        (("-u", "a", "--password-stdin", "host.example/team"), "not a registry"),
        (("host.example",), "no terminal"),
    ],
)
def test_bad_words_are_refused(user: User, words: tuple[str, ...], said: str) -> None:
    done = user.run("shipline", "login", *words)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_registry_with_an_unknown_authority_says_so(tmp_path: Path) -> None:
    with docker_registry(tmp_path, account=Account("alice", SECRET), tls=True) as registry:
        done = User(tmp_path, registry).login("--store", "plain")
    assert done.returncode == 6, done.stderr
    assert "certificate refused" in done.stderr and "--ca" in done.stderr
    assert f"/etc/docker/certs.d/{registry.address}/ca.crt" in done.stderr


def test_a_node_with_tls_that_is_asked_in_plain_http_says_so(user: User, tmp_path: Path) -> None:
    certificate, key = map(str, self_signed(tmp_path, "node"))
    with guarded(tmp_path / "data", "--tls-cert", certificate, "--tls-key", key) as node:
        words = ("imagetools", "inspect", "--insecure", node.address, f"{node.address}/team/app:1")
        done = user.run("shipline", *words)
    assert done.returncode == 6, done.stderr
    assert "speaks TLS" in done.stderr and "--insecure" in done.stderr


def test_docker_and_we_take_the_variable_before_the_file(user: User) -> None:
    """DOCKER_AUTH_CONFIG, of docker 28.3 and GitLab's runner."""
    address = user.registry.address
    right, wrong = (
        json.dumps(
            {"auths": {address: {"auth": base64.b64encode(f"alice:{word}".encode()).decode()}}}
        )
        for word in (SECRET, "guess")
    )
    programs = dict(newest())
    config = Descriptor.of(b"{}", media.OCI_CONFIG)
    image = Manifest.make(config, [])
    with Client(keychain=StaticKeychain({address: Credentials("alice", SECRET)})) as client:
        repository = client.repository(Reference.parse(f"{address}/team/there"))
        repository.push(config, MemoryStore(b"{}"))
        repository.tag(image.descriptor, MemoryStore(image.raw), "1")
    for inside, outside in ((right, wrong), (wrong, right)):
        user.config.write_text(outside)
        docker = user.run(
            *("docker", "manifest", "inspect", "--insecure", f"{address}/team/there:1"),
            **programs | {"DOCKER_AUTH_CONFIG": inside},
        )
        assert (docker.returncode == 0) is (inside is right), docker.stderr
        assert user.may_come_in(DOCKER_AUTH_CONFIG=inside) is (inside is right)


@pytest.mark.parametrize("program", ["podman", "skopeo"])
def test_the_same_key_counts_as_in_other_programs(user: User, program: str) -> None:
    keys = ["a.io", "a.io/team", "a.io/team/app", "https://b.io/v1/", "http://c.io"]
    keys += ["docker.io/library", "https://index.docker.io/v1/", "localhost:5000", "d.io/x"]
    auths: dict[str, object] = {
        key: {"auth": base64.b64encode(f"user{number}:x".encode()).decode()}
        for number, key in enumerate(keys)
    }
    user.config.write_text(json.dumps({"auths": {**auths, "d.io": {}}}))
    keychain = keychain_from({"REGISTRY_AUTH_FILE": str(user.config)})
    names = "a.io a.io/team/app a.io/team/app/x a.io/team/b a.io/teamx b.io/x c.io localhost:5000/a"
    for name in f"{names} docker.io/library/x docker.io/y d.io d.io/x/y d.io/y e.io".split():
        host, _, repository = name.partition("/")
        ours = keychain.credentials(host, repository)
        line = (program, "login", "--get-login", "--authfile", str(user.config), name)
        done = user.run(*line)
        assert (ours.username if ours else "") == done.stdout.strip(), (name, done.stderr)
