"""Keychain: the credentials of a host go to that host alone, wherever they are kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from shipline.registry import Credentials, Keychain, StaticKeychain, keychain_from
from shipline.registry.credentials import HUB_KEY, NoKeychain
from shipline.registry.keychain import STORE_FILE, CredentialStore

pytestmark = pytest.mark.usefixtures("cheap_hashes")
HOST, ALICE = "reg.example.com:5000", Credentials("alice", "s3cret: with ü")
KNOWN = {HOST: ALICE, "docker.io": Credentials("bob", "hub")}
Make = Callable[[Path], Keychain]


def server(host: str) -> str:
    """What docker and credential helpers call a host."""
    return HUB_KEY if host == "docker.io" else host


def write(place: Path, document: Mapping[str, object]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(document))


def auths() -> dict[str, object]:
    return {
        server(host): {"auth": base64.b64encode(f"{one.username}:{one.password}".encode()).decode()}
        for host, one in KNOWN.items()
    }


def docker_config(place: Path) -> Keychain:
    write(place / "config.json", {"auths": auths()})
    return keychain_from({"DOCKER_CONFIG": str(place)})


def containers_auth(place: Path) -> Keychain:
    write(place / "containers/auth.json", {"auths": auths()})
    return keychain_from({"XDG_RUNTIME_DIR": str(place)})


def auth_file(place: Path) -> Keychain:
    write(place / "any.json", {"auths": auths()})
    return keychain_from({"REGISTRY_AUTH_FILE": str(place / "any.json")})


def helper(place: Path) -> Keychain:
    """A program, as docker-credential-helpers are."""
    for number, (host, one) in enumerate(KNOWN.items()):
        entry = {"ServerURL": server(host), "Username": one.username, "Secret": one.password}
        write(place / "kept" / str(number), entry)
        write(place / "kept" / f"{number}.server", {})
        (place / "kept" / f"{number}.server").write_text(server(host))
    program = place / "docker-credential-kept"
    program.write_text(
        f"#!/bin/sh\nasked=$(cat)\nfor one in {place}/kept/*.server; do\n"
        '[ "$asked" != "$(cat "$one")" ] || exec cat "${one%.server}"\ndone\n'
        "echo credentials not found in native keychain; exit 1\n"
    )
    program.chmod(0o755)
    write(place / "config.json", {"credsStore": "kept"})
    return keychain_from({"DOCKER_CONFIG": str(place), "PATH": f"{place}:/usr/bin:/bin"})


def encrypted_store(place: Path) -> Keychain:
    kept = CredentialStore(place / STORE_FILE, "correct horse")
    for host, one in KNOWN.items():
        kept.put(server(host), one)
    write(place / "config.json", {"credsStore": "shipline"})
    return keychain_from({"DOCKER_CONFIG": str(place), "SHIPLINE_PASSPHRASE": "correct horse"})


def static(place: Path) -> Keychain:
    return StaticKeychain(KNOWN)


KEYCHAINS = (static, docker_config, containers_auth, auth_file, helper, encrypted_store)


@pytest.fixture(params=KEYCHAINS, ids=lambda make: make.__name__)
def keychain(request: pytest.FixtureRequest, tmp_path: Path) -> Keychain:
    """Every place that credentials are kept in, with those of KNOWN."""
    make: Make = request.param
    return make(tmp_path)


def test_a_host_has_its_credentials_for_every_repository(keychain: Keychain) -> None:
    for repository in ("app", "team/app", "a/b/c", "app"):
        assert keychain.credentials(HOST, repository) == ALICE


@pytest.mark.parametrize(
    "host",
    ["reg.example.com", "reg.example.com:5001", f"{HOST}.evil", "example.com", "com", f"x.{HOST}"],
)
def test_another_host_gets_nothing(keychain: Keychain, host: str) -> None:
    assert keychain.credentials(host, "team/app") is None


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_the_hub_has_many_names(keychain: Keychain, name: str) -> None:
    assert keychain.credentials(name, "library/busybox") == KNOWN["docker.io"]


def test_hosts_are_compared_without_case(keychain: Keychain) -> None:
    assert keychain.credentials(HOST.upper(), "app") == ALICE


def test_no_secret_is_in_the_repr(keychain: Keychain) -> None:
    found = keychain.credentials(HOST, "app")
    assert "s3cret" not in repr(keychain) + repr(found)


def test_no_keychain_is_anonymous_everywhere() -> None:
    assert all(NoKeychain().credentials(host, "a") is None for host in (HOST, "docker.io", ""))
