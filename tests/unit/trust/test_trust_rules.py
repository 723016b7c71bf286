"""The section trust: read from YAML, keys found, mistakes told with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipline.config import loads
from shipline.errors import ConfigError
from shipline.oci import Reference
from shipline.supply import ImagePattern, generate_key
from shipline.trust import NO_TRUST, PredicateRule, TrustRule, TrustSection, load_trust

KEY, OTHER = generate_key("ours"), generate_key("theirs")


def section(text: str) -> TrustSection:
    found = loads(f"version: 1\ntrust:\n{text}".encode(), "shipline.yaml", {}).trust
    assert found is not None
    return found


FULL = """
  keys: {release: keys/release.pub, audit: keys/audit.pub}
  default: accept
  rules:
    - images: [registry.example/prod/**]
      keys: [release, audit]
      threshold: 2
      identity: exact
      max-age: 90d
      annotations: {env: prod}
      predicates:
        - spdx
        - {type: vuln, max-age: 7d}
    - images: [registry.example/tools/*, "**/scratch"]
      action: accept
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "release.pub").write_bytes(KEY.public.pem)
    (tmp_path / "keys" / "audit.pub").write_bytes(OTHER.public.pem)
    return tmp_path


def test_a_whole_section_is_read(base: Path) -> None:
    trust = load_trust(section(FULL), base)
    first, second = trust.rules
    assert [key.name for key in first.keys] == ["release", "audit"]
    assert set(first.keys) == {KEY.public, OTHER.public}
    assert first.predicates == {
        "https://spdx.dev/Document": None,
        "https://cosign.sigstore.dev/attestation/vuln/v1": 7 * 86400,
    }
    assert second.section.action == "accept" and trust.accepts_others


def test_the_first_rule_that_matches_decides(base: Path) -> None:
    text = """
  keys: {release: keys/release.pub}
  rules:
    - images: [team/public]
      action: accept
    - images: [team/*]
    - images: ["**"]
      action: reject
"""
    trust = load_trust(section(text), base)
    actions = {
        name: rule.section.action
        for name in ("r.example/team/public", "r.example/team/app", "r.example/x")
        if (rule := trust.rule_for(Reference.parse(name)))
    }
    assert list(actions.values()) == ["accept", "require", "reject"]


def test_without_rules_there_is_no_policy(tmp_path: Path) -> None:
    assert load_trust(None, tmp_path) is NO_TRUST
    assert load_trust(TrustSection(keys={"a": "nowhere.pub"}), tmp_path) is NO_TRUST


def test_a_key_can_stand_in_the_file(tmp_path: Path) -> None:
    pem = KEY.public.pem.decode()
    said = TrustSection(rules=(TrustRule((ImagePattern("**"),), keys=(pem,)),))
    assert load_trust(said, tmp_path).rules[0].keys == (KEY.public,)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("images: []", "at least one pattern"),
        ("images: ['a b']", "not a pattern of images"),
        ("images: ['**']\n      threshold: 0", "at least one key"),
        ("images: ['**']\n      identity: same", "not a rule of identity"),
        ("images: ['**']\n      max-age: 90", "not a duration"),
        ("images: ['**']\n      action: allow", "'allow' is not"),
        ("images: ['**']\n      action: accept\n      keys: [a]", "takes no keys or predicates"),
        ("images: ['**']\n      key: [a]", "unknown key (did you mean keys?)"),
    ],
)
def test_a_mistake_in_a_rule_is_told_with_its_line(rule: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        section(f"  rules:\n    - {rule}\n")
    assert message in str(caught.value)
    assert "shipline.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (TrustSection(rules=(TrustRule((ImagePattern("**"),)),)), "rules[0].keys"),
        (
            TrustSection(rules=(TrustRule((ImagePattern("**"),), keys=("none.pub",)),)),
            "rules[0].keys: cannot read",
        ),
        (
            TrustSection(
                rules=(TrustRule((ImagePattern("**"),), keys=("keys/release.pub",), threshold=2),)
            ),
            "rules[0].threshold: 2 keys must sign, but there are 1",
        ),
        (
            TrustSection(
                rules=(
                    TrustRule(
                        (ImagePattern("**"),),
                        keys=("keys/release.pub", "./keys/release.pub"),
                        threshold=2,
                    ),
                )
            ),
            "there are 1",
        ),
        (
            TrustSection(
                rules=(TrustRule((ImagePattern("**"),), keys=("a",)),), keys={"a": "keys"}
            ),
            "keys.a: cannot read",
        ),
        (
            TrustSection(
                rules=(
                    TrustRule(
                        (ImagePattern("**"),), keys=("keys/audit.pub",), predicates=("sbom",)
                    ),
                )
            ),
            "rules[0].predicates: not a predicate type",
        ),
    ],
)
def test_keys_that_cannot_do_are_told(base: Path, said: TrustSection, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_trust(said, base)
    assert message in str(caught.value)


def test_the_hash_names_rules_and_keys_and_not_their_names(base: Path) -> None:
    first = load_trust(section(FULL), base)
    renamed = FULL.replace("audit:", "second:").replace("audit]", "second]")
    assert load_trust(section(renamed), base).hash == first.hash
    assert load_trust(section(FULL.replace("90d", "91d")), base).hash != first.hash
    assert load_trust(section(FULL.replace("7d", "8d")), base).hash != first.hash
    (base / "keys" / "audit.pub").write_bytes(generate_key().public.pem)
    assert load_trust(section(FULL), base).hash != first.hash


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("**", "registry.example/a/b", True),
        ("*", "registry.example/a", True),
        ("*", "registry.example/a/b", False),
        ("team/*", "registry.example/team/app", True),
        ("team/*", "registry.example/team/app/web", False),
        ("team/**", "registry.example/team/app/web", True),
        ("team/*", "registry.example/myteam/app", False),
        ("registry.example/team/*", "registry.example/team/app", True),
        ("registry.example/team/*", "registry.example.evil/team/app", False),
        ("registry.example/team/*", "evil.example/registry.example/team/app", False),
        ("*.example/app", "a.example/app", True),
        ("127.0.0.1:*/app", "127.0.0.1:5000/app", True),
        ("docker.io/library/*", "alpine", True),
        ("**/app", "registry.example/a/b/app", True),
        ("localhost/app", "localhost/app", True),
    ],
)
def test_patterns_match_whole_names(pattern: str, name: str, matches: bool) -> None:
    assert ImagePattern.parse(pattern).matches(Reference.parse(name)) is matches


def test_values_are_written_as_they_are_read() -> None:
    rule = section(FULL).rules[0]
    assert [str(one) for one in rule.images] == ["registry.example/prod/**"]
    assert (str(rule.identity), str(rule.max_age)) == ("exact", "12w6d")
    assert rule.predicates[0] == "spdx"
    assert isinstance(rule.predicates[1], PredicateRule)
