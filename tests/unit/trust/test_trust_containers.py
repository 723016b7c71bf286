"""podman's policy.json: followed exactly, or refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from shipline.errors import ConfigError
from shipline.oci import Reference
from shipline.supply import generate_key
from shipline.trust import load_trust, read_containers_policy

KEY, OTHER = generate_key("ours"), generate_key("theirs")
DATA = base64.b64encode(KEY.public.pem).decode()
OTHER_DATA = base64.b64encode(OTHER.public.pem).decode()
SIGNED = {"type": "sigstoreSigned", "keyData": DATA}
ACCEPT = {"type": "insecureAcceptAnything"}
REJECT = {"type": "reject"}


def policy(docker: Any = None, default: Any = (REJECT,)) -> bytes:
    document: dict[str, Any] = {"default": list(default)}
    if docker is not None:
        document["transports"] = {"docker": docker}
    return json.dumps(document).encode()


def actions(content: bytes, *names: str) -> list[str]:
    trust = load_trust(read_containers_policy(content), Path())
    rules = [trust.rule_for(Reference.parse(name)) for name in names]
    return [rule.section.action if rule else "none" for rule in rules]


def test_the_narrowest_scope_decides() -> None:
    scopes = {
        "r.example": [REJECT],
        "r.example/team": [SIGNED],
        "r.example/team/open": [ACCEPT],
        "*.example": [ACCEPT],
    }
    names = ("r.example/x", "r.example/team/a/b", "r.example/team", "r.example/team/open")
    others = ("r.example/team/open/x", "r.example/teams", "a.example/x", "b.other/x")
    assert actions(policy(scopes), *names) == ["reject", "require", "require", "accept"]
    assert actions(policy(scopes), *others) == ["accept", "reject", "accept", "reject"]


def test_the_default_of_the_transport_comes_before_that_of_the_file() -> None:
    assert actions(policy({"": [ACCEPT]}), "r.example/x") == ["accept"]
    assert actions(policy({}, [ACCEPT]), "r.example/x") == ["accept"]
    assert actions(policy({}, [SIGNED]), "r.example/x") == ["require"]


@pytest.mark.parametrize(
    ("said", "identity"),
    [
        (None, "exact"),
        ({"type": "matchRepoDigestOrExact"}, "exact"),
        ({"type": "matchRepository"}, "repository"),
        ({"type": "exactRepository", "dockerRepository": "r.example/a/b"}, "r.example/a/b"),
    ],
)
def test_identities_are_followed(said: Any, identity: str) -> None:
    demand = {**SIGNED, **({"signedIdentity": said} if said else {})}
    (rule,) = load_trust(read_containers_policy(policy(default=[demand])), Path()).rules
    assert str(rule.section.identity) == identity


def test_keys_are_found_in_files_and_in_place(tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_bytes(KEY.public.pem)
    for demand in (
        SIGNED,
        {"type": "sigstoreSigned", "keyPath": str(tmp_path / "a.pub")},
        {"type": "sigstoreSigned", "keyPaths": ["a.pub"]},
        {"type": "sigstoreSigned", "keyDatas": [DATA]},
    ):
        content = policy(default=[demand])
        (rule,) = load_trust(read_containers_policy(content), tmp_path).rules
        assert rule.keys == (KEY.public,) and rule.section.threshold == 1


def test_of_several_keys_in_a_requirement_one_must_sign_of_several_requirements_all() -> None:
    either = {"type": "sigstoreSigned", "keyDatas": [DATA, OTHER_DATA]}
    both = [SIGNED, {"type": "sigstoreSigned", "keyData": OTHER_DATA}]
    for demands, threshold in (([either], 1), (both, 2), ([*both, ACCEPT], 2), ([SIGNED] * 2, 1)):
        (rule,) = load_trust(read_containers_policy(policy(default=demands)), Path()).rules
        assert rule.section.threshold == threshold, demands
    assert actions(policy(default=[SIGNED, REJECT]), "r.example/x") == ["reject"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"default": [], "default": [{"type": "reject"}]}',
        policy(default=[]),
        policy(default=[7]),
        policy(default=[{"type": ["reject"]}]),
        policy(default=[{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]),
        policy(default=[{"type": "sigstoreSigned"}]),
        policy(default=[{**SIGNED, "keyPath": "/k"}]),
        policy(default=[{**SIGNED, "rekorPublicKeyPath": "/k"}]),
        policy(default=[{"type": "sigstoreSigned", "fulcio": {}}]),
        policy(default=[{"type": "sigstoreSigned", "keyData": "?"}]),
        policy(default=[{"type": "sigstoreSigned", "keyPaths": []}]),
        policy(default=[{**SIGNED, "signedIdentity": {"type": "remapIdentity"}}]),
        policy(default=[{**SIGNED, "signedIdentity": {"type": "exactReference"}}]),
        policy(default=[{**SIGNED, "signedIdentity": "matchRepository"}]),
        policy(default=[SIGNED, {"type": "sigstoreSigned", "keyDatas": [DATA, OTHER_DATA]}]),
        policy([]),
        policy({"r.example/a:v1": [REJECT]}),
        policy({f"r.example/a@sha256:{'a' * 64}": [REJECT]}),
        policy({"library": [REJECT]}),
        policy({"r.example": {}}),
    ],
)
def test_what_cannot_be_followed_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError):
        read_containers_policy(content)
