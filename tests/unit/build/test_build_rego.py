"""Policies in Rego: input and decisions as buildx has them, and refusal of what is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shipline.build import parse_request
from shipline.build.rego import RegoPolicies, rego_policies
from shipline.build.settings import Settings
from shipline.errors import GateRefused, UsageError
from shipline.git import GitCommit, parse_git_source
from shipline.oci import Digest, ImageConfig, Platform, Reference

RULES = """package docker
# comments may say .signatures
default allow := false
{rules}
deny_msg contains msg if {{ not allow; msg := "not this" }}
decision := {{"allow": allow, "deny_msg": deny_msg}}
"""
IMAGE_ID = Digest.parse("sha256:" + "1" * 64)
CONFIG = ImageConfig(Platform("linux", "amd64"), {"User": "app", "Labels": {"a.b": "c"}})


def policies(place: Path, *rules: str, **facts: Any) -> RegoPolicies:
    (place / "p.rego").write_text(RULES.format(rules="\n".join(rules)))
    return RegoPolicies((place / "p.rego",), facts)


def check_image(policy: RegoPolicies, text: str) -> None:
    name = Reference.parse(text).or_latest
    policy.check_image(name, name.at(IMAGE_ID), Platform("linux", "arm64", "v8"), CONFIG)


@pytest.mark.parametrize(
    ("condition", "image"),
    [
        ('input.image.repo == "alpine"', "alpine:3.20"),
        ('input.image.repo == "grafana/loki"', "grafana/loki"),
        ('input.image.fullRepo == "docker.io/library/alpine"', "alpine"),
        ('input.image.ref == "docker.io/library/alpine:latest"', "alpine"),
        ('input.image.host == "ghcr.io"; input.image.repo == "ghcr.io/a/b"', "ghcr.io/a/b:1"),
        ('input.image.tag == "3.20"; not input.image.isCanonical', "alpine:3.20"),
        (f'input.image.checksum == "{IMAGE_ID}"', "alpine"),
        ("input.image.isCanonical; not input.image.tag", f"alpine@{IMAGE_ID}"),
        ('input.image.arch == "arm64"; input.image.user == "app"', "alpine"),
        ('input.image.labels["a.b"] == "c"; not input.image.env', "alpine"),
        ('input.env.args.A == "1"; not input.env.target; not input.local', "alpine"),
    ],
)
def test_an_image_has_the_fields_of_buildx(tmp_path: Path, condition: str, image: str) -> None:
    check_image(policies(tmp_path, f"allow if {{ {condition} }}", args={"A": "1"}), image)
    with pytest.raises(GateRefused, match="not allowed by policy") as error:
        check_image(policies(tmp_path, f"allow if {{ {condition}; input.http }}"), image)
    assert error.value.verdicts == ("not this",)


def test_a_file_is_judged_before_its_download_unless_its_digest_counts(tmp_path: Path) -> None:
    def check(policy: RegoPolicies, checksum: str = "") -> None:
        policy.check_http("https://Get.example:8443/a/b?x=1", checksum, authorized=False)

    host = 'input.http.host == "get.example:8443"; input.http.schema == "https"'
    check(policies(tmp_path, f'allow if {{ {host}; input.http.query.x[0] == "1" }}'))
    with pytest.raises(GateRefused):
        check(policies(tmp_path, 'allow if input.http.path == "/b"'))
    pinned = policies(tmp_path, 'allow if input.http.checksum == "sha256:1"')
    check(pinned)
    check(pinned, "sha256:1")
    with pytest.raises(GateRefused):
        check(pinned, "sha256:2")


@pytest.mark.parametrize(
    ("condition", "ref"),
    [
        ('input.git.host == "github.com"; input.git.tagName == "v1"', "refs/tags/v1"),
        ('input.git.branch == "main"; input.git.isAnnotatedTag', "refs/heads/main"),
        ('input.git.isCommitRef; startswith(input.git.remote, "https://github.com/")', ""),
        ('input.git.subDir == "sub"; startswith(input.git.commitChecksum, "aa")', ""),
    ],
)
def test_a_repository_has_the_fields_of_buildx(tmp_path: Path, condition: str, ref: str) -> None:
    source = parse_git_source("https://github.com/a/b.git#x:sub")
    assert source is not None
    found = GitCommit(source, "a" * 40, "b" * 40, ref)
    policies(tmp_path, f"allow if {{ {condition} }}").check_git(found)
    with pytest.raises(GateRefused):
        policies(tmp_path, "allow if input.git.isSHA256").check_git(found)


def test_modules_are_imported_by_the_names_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "names.rego").write_text('package any\nimport data.lib.names\nok := ["a"]')
    rule = 'decision := {"allow": true} if input.local.name in names.ok'
    (tmp_path / "p.rego").write_text(f"package docker\nimport data.lib.names\n{rule}")
    policy = RegoPolicies((tmp_path / "p.rego",), {})
    policy.check_local("a")
    with pytest.raises(UsageError, match="no decision"):
        policy.check_local("b")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("package docker\nallow if {", "not Rego: this is unclosed"),
        ("package other\nallow := true", "not of the package docker"),
        ("package docker\nallow := true", "no decision"),
        ("package docker\ndecision := true", "decision is True"),
        ('package docker\ndecision := {"allow": 1}', "decision is"),
        ('package docker\ndecision := {"allow": load_json("x")}', "functions of buildx"),
        ("package docker\ndecision := {} if input.image.hasProvenance", "'hasProvenance'"),
        ("package docker\ng := input.git\ndecision := {} if g.commit.author", "'commit.'"),
        ("package docker\nimport data.none\ndecision := {}", "none.rego: No such file"),
    ],
)
def test_a_policy_that_cannot_decide_is_an_error(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "p.rego").write_text(text)
    with pytest.raises(UsageError) as error:
        RegoPolicies((tmp_path / "p.rego",), {}).check_local("context")
    assert told in f"{error.value} {error.value.hint}"


def test_the_policy_of_the_dockerfile_counts_without_being_named(tmp_path: Path) -> None:
    (tmp_path / "a.rego").write_text(RULES.format(rules="allow if input.local"))

    def rego(*words: str, file: str = "a") -> RegoPolicies | None:
        request = parse_request(str(tmp_path), {}, file=str(tmp_path / file), policy=words)
        policy = Settings(tmp_path, None).source_policy(request)  # type: ignore[arg-type]
        return None if policy is None else policy.rego

    found = rego()
    assert found is not None
    found.check_local("context")
    assert rego("disabled=true") is None and rego("reset=true") is None and rego(file="b") is None
    other = tmp_path / "other.rego"
    other.write_text(RULES.format(rules="allow if input.image"))
    both = rego(f"filename={other},log-level=debug")
    assert both is not None
    with pytest.raises(GateRefused, match="local://context"):
        both.check_local("context")
    alone = rego("reset=true", f"filename={other}")
    assert alone is not None
    check_image(alone, "alpine")
    for word, told in (
        ("strict=true", "there is no policy"),
        ("filename=", "unknown"),
        ("nothing=1", "unknown attribute"),
        (f"filename={tmp_path}/none", "cannot read"),
    ):
        with pytest.raises(UsageError, match=told):
            rego(word, file="b")


def test_facts_of_the_request_are_in_the_input(tmp_path: Path) -> None:
    place = tmp_path / "x.rego"
    place.write_text(
        RULES.format(
            rules='allow if input.env == {"args": {"A": "1"}, "filename": "D", "target": "t"}'
        )
    )
    request = parse_request(str(tmp_path), {}, file="d/D", target="t", build_arg=["A=1"])
    rego_policies(request, (place,)).check_local("context")
