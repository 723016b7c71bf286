"""A source policy allows, denies and converts sources as BuildKit does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shipline.build.source_rules import VARIABLE, SourcePolicy, source_policy
from shipline.errors import GateRefused, UsageError
from shipline.git import GitSource
from shipline.oci import Reference

HUB = "docker-image://docker.io/library"
BUSYBOX = f"{HUB}/busybox:latest"


@pytest.fixture
def policy_of(tmp_path: Path) -> object:
    def read(*rules: object) -> SourcePolicy:
        path = tmp_path / "policy.json"
        path.write_text(json.dumps({"rules": rules}))
        return source_policy({VARIABLE: str(path)})

    return read


def rule(action: str, identifier: str, kind: str = "", **more: object) -> dict[str, object]:
    selector: dict[str, object] = {"identifier": identifier, **more}
    return {"action": action, "selector": selector | ({"match_type": kind} if kind else {})}


def convert(identifier: str, to: str, kind: str = "", **attrs: str) -> dict[str, object]:
    return {**rule("CONVERT", identifier, kind), "updates": {"identifier": to, "attrs": attrs}}


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ([], True),
        ([rule("DENY", BUSYBOX)], False),
        ([rule("DENY", f"{HUB}/busybox*")], False),
        ([rule("DENY", f"{HUB}/busybox", "EXACT")], True),
        ([rule("DENY", "busybox:l", "REGEX")], False),
        ([rule("DENY", "docker-image://*"), rule("ALLOW", f"{HUB}/busybox*")], True),
        ([rule("ALLOW", f"{HUB}/busybox*"), rule("DENY", "docker-image://*")], False),
        ([rule("DENY", BUSYBOX, constraints=[{"key": "a", "value": "b"}])], True),
        ([rule("DENY", BUSYBOX, constraints=[{"key": "a", "condition": "EQUAL"}])], False),
    ],
)
def test_the_last_rule_that_matches_counts(policy_of, rules, allowed) -> None:  # type: ignore[no-untyped-def]
    policy = policy_of(*rules)
    if allowed:
        assert policy.image("busybox") == "busybox"
        return
    with pytest.raises(GateRefused, match="denied by policy"):
        policy.image("busybox")


@pytest.mark.parametrize(
    "written",
    [
        {"action": "DENY", "selector": {"identifier": "busybox:l", "matchType": "REGEX"}},
        {"action": 1, "selector": {"identifier": "busybox:l", "match_type": 2}},
        {"Action": "DENY", "Selector": {"Identifier": "busybox:l", "MATCH_TYPE": "REGEX"}},
    ],
)
def test_members_are_in_any_case_and_values_may_be_numbers(policy_of, written) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GateRefused):
        policy_of(written).image("busybox")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"action": "CONVERT"}, "invalid nil selector in policy"),
        (rule("CONVERT", BUSYBOX), "missing destination for convert rule"),
        (rule("9000", BUSYBOX), "'9000' is not one of ALLOW"),
        ({**rule("", BUSYBOX), "action": 9000}, "9000 is not one of ALLOW"),
        ({**rule("", BUSYBOX), "action": True}, "True is not one of ALLOW"),
        (rule("DENY", f"{BUSYBOX}(", "REGEX"), "is not a source policy"),
        ("DENY", "is not a source policy"),
    ],
)
def test_a_wrong_rule_is_refused(policy_of, written, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=re.escape(said)):
        policy_of(written)


def test_an_image_is_judged_by_its_digest_too(policy_of) -> None:  # type: ignore[no-untyped-def]
    policy = policy_of(rule("DENY", "docker-image://*"), rule("ALLOW", BUSYBOX))
    assert policy.image("busybox:latest") == "busybox:latest"
    with pytest.raises(GateRefused):
        policy.check_image(Reference.parse(f"busybox:latest@sha256:{'0' * 64}"))


@pytest.mark.parametrize(
    ("found", "image"),
    [
        (convert(BUSYBOX, f"{HUB}/alpine:3"), "docker.io/library/alpine:3"),
        (
            convert(f"{HUB}/*:latest", "docker-image://mirror.example/x/${1}:1"),
            "mirror.example/x/busybox:1",
        ),
        (
            convert(rf"{HUB}/busy(box):(\w+)", f"{HUB}/$1:$2", "REGEX"),
            "docker.io/library/box:latest",
        ),
    ],
)
def test_an_image_is_converted(policy_of, found, image) -> None:  # type: ignore[no-untyped-def]
    assert policy_of(found).image("busybox") == image


def test_a_conversion_is_judged_anew_but_not_for_ever(policy_of) -> None:  # type: ignore[no-untyped-def]
    there, back = f"{HUB}/a:1", f"{HUB}/b:1"
    with pytest.raises(GateRefused):
        policy_of(convert(there, back), rule("DENY", back)).image("a:1")
    with pytest.raises(UsageError, match="without end"):
        policy_of(convert(there, back), convert(back, there)).image("a:1")


@pytest.mark.parametrize(
    ("source", "other", "use"),
    [
        (BUSYBOX, "local://context", lambda policy: policy.image("busybox")),
        (BUSYBOX, "https://example.com/a", lambda policy: policy.image("busybox")),
        ("https://example.com/f", BUSYBOX, lambda policy: policy.http("https://example.com/f", "")),
        ("local://context", BUSYBOX, lambda policy: policy.check_local("context")),
        ("local://context", "local://other", lambda policy: policy.check_local("context")),
    ],
)
def test_a_source_of_another_kind_is_refused(  # type: ignore[no-untyped-def]
    policy_of, source: str, other: str, use: Callable[[SourcePolicy], object]
) -> None:
    with pytest.raises(UsageError, match=f"converts {source} into {other}, which cannot"):
        use(policy_of(convert(source, other)))


def test_a_url_gets_a_checksum_and_a_repository_another_ref(policy_of) -> None:  # type: ignore[no-untyped-def]
    url, digest = "https://example.com/f", f"sha256:{'0' * 64}"
    policy = policy_of(convert(url, "", **{"http.checksum": digest}))
    assert policy.http(url, "") == (url, digest)
    source = GitSource("https://example.com/x.git", ref="main", subdir="s")
    pinned = policy_of(convert("git://example.com/x.git#main", "git://example.com/x.git#v1"))
    assert pinned.git(source) == GitSource("https://example.com/x.git", ref="v1", subdir="s")
    with pytest.raises(GateRefused):
        policy_of(rule("DENY", "git://example.com/*")).git(source)
    with pytest.raises(GateRefused):
        policy_of(rule("DENY", "local://*")).check_local("context")


@pytest.mark.parametrize(
    "text", ["x", "[]", '{"rules": [{"selector": {}}]}', json.dumps({"rules": [rule("FOO", "a")]})]
)
def test_a_policy_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p").write_text(text)
    with pytest.raises(UsageError, match="is not a source policy"):
        source_policy({VARIABLE: str(tmp_path / "p")})
    with pytest.raises(UsageError, match="cannot read"):
        source_policy({VARIABLE: str(tmp_path / "none")})


def test_an_expression_that_could_backtrack_takes_no_time(policy_of) -> None:  # type: ignore[no-untyped-def]
    policy = policy_of(rule("DENY", "(a+)+$", "REGEX"), rule("DENY", "*".join("a" * 30)))
    start = time.process_time()
    assert policy.image("host/" + "a" * 60 + "/b:1")
    assert time.process_time() - start < 5
