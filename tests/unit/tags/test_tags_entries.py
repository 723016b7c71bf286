"""Entries of docker/metadata-action: the tables of its documentation, and what it gets wrong."""

from __future__ import annotations

import pytest

from shipline.errors import ConfigError
from shipline.git import Commit
from shipline.tags import (
    CommitHistory,
    Decision,
    Event,
    Flavor,
    NoRuleMatches,
    Situation,
    TagEntry,
    TagRule,
    TagsSection,
    decide,
)
from shipline.tags.templates import render_date
from shipline.values import replace

SHA = "90dd6032fac8bda1b6c4436a2e65de27961ed071"
NOW = 1_616_770_800  # 2021-03-26T15:00:00Z
HEAD = Commit(SHA, time=NOW - 86_400)


def decided(ref: str, *entries: str, kind: str = "", **section: object) -> Decision:
    number = "2" if "pull" in ref else ""
    event = replace(
        Event.of(ref, kind, number),
        default_branch="master",
        head=SHA if number else "",
        base="release/1" if number else "",
    )
    policy = TagsSection(rules=(TagRule(entries),), unique_names=False)
    situation = Situation(event, HEAD, now=NOW, url="https://github.com/octocat/hello.git")
    return decide(replace(policy, **section), situation)


DEFAULT = ("type=schedule", "type=ref,event=branch", "type=ref,event=tag", "type=ref,event=pr")


@pytest.mark.parametrize(
    ("ref", "tags"),
    [
        ("refs/pull/2/merge", ["pr-2"]),
        ("refs/heads/master", ["master"]),
        ("refs/heads/releases/v1", ["releases-v1"]),
        ("refs/tags/v1.2.3", ["v1.2.3", "latest"]),
        ("refs/tags/v2.0.8-beta.67", ["v2.0.8-beta.67", "latest"]),
    ],
)
def test_the_usual_entries(ref: str, tags: list[str]) -> None:
    assert [*decided(ref, *DEFAULT).names] == tags


def test_a_date_in_a_git_tag_stays_as_it_is() -> None:
    assert decided("refs/tags/20200110-RC2", r"type=match,pattern=\d+").names == (
        "20200110",
        "latest",
    )


@pytest.mark.parametrize(
    ("tag", "pattern", "tags"),
    [
        ("v1.2.3", "{{raw}}", ["v1.2.3", "latest"]),
        ("v1.2.3", "{{version}}", ["1.2.3", "latest"]),
        ("v1.2.3", "{{major}}.{{minor}}", ["1.2", "latest"]),
        ("v1.2.3", "v{{major}}", ["v1", "latest"]),
        ("v1.2.3", "{{minor}}", ["2", "latest"]),
        ("v1.2.3", "{{patch}}", ["3", "latest"]),
        ("v2.0.8-beta.67", "{{raw}}", ["v2.0.8-beta.67"]),
        ("v2.0.8-beta.67", "{{version}}", ["2.0.8-beta.67"]),
        ("v2.0.8-beta.67", "{{major}}.{{minor}}", ["2.0.8-beta.67"]),
    ],
)
def test_semver(tag: str, pattern: str, tags: list[str]) -> None:
    assert [*decided(f"refs/tags/{tag}", f"type=semver,pattern={pattern}").names] == tags


@pytest.mark.parametrize(
    ("tag", "pattern", "tags"),
    [
        ("1.2.3", "{{version}}", ["1.2.3", "latest"]),
        ("v1.2.3", "{{major}}.{{minor}}", ["1.2", "latest"]),
        ("1.2.3rc2", "{{major}}.{{minor}}", ["1.2.3rc2"]),
        ("1.2.3rc2", "{{raw}}", ["1.2.3rc2"]),
        ("1.2.3.dev1", "{{version}}", ["1.2.3.dev1"]),
        ("v1.2.3RC2", "{{version}}", ["1.2.3rc2"]),
        ("1.0-alpha_1", "{{version}}", ["1.0a1"]),
        ("1.0.post1", "{{major}}", ["1.0.post1"]),
        ("1.0-1", "{{version}}", ["1.0.post1"]),
        ("1", "{{major}}.{{minor}}.{{patch}}", ["1.0.0", "latest"]),
        ("1.0+Ubuntu-007", "{{version}}", ["1.0-ubuntu.7", "latest"]),
        ("2!1.0", "{{version}}", ["2-1.0", "latest"]),
    ],
)
def test_pep440(tag: str, pattern: str, tags: list[str]) -> None:
    assert [*decided(f"refs/tags/{tag}", f"type=pep440,pattern={pattern}").names] == tags


@pytest.mark.parametrize("tag", ["1.0-nightly", "1..0", "9" * 5000])
def test_a_tag_that_pep_440_does_not_allow_gives_none(tag: str) -> None:
    with pytest.raises(NoRuleMatches, match="is not a PEP 440 version"):
        decided(f"refs/tags/{tag}", "type=pep440,pattern={{version}}")


@pytest.mark.parametrize(
    ("tag", "entry", "name"),
    [
        ("v1.2.3", r"pattern=\d.\d.\d", "1.2.3"),
        ("v2.0.8-beta.67", "pattern=v(.*),group=1", "2.0.8-beta.67"),
        ("v2.0.8-beta.67", r"pattern=v(\d.\d),group=1", "2.0"),
        ("20200110-RC2", r"pattern=\d+", "20200110"),
        ("p1/v1.2.3", r"pattern=p1/v(\d.\d.\d),group=1", "1.2.3"),
        ("x", "pattern=/V(.*)/i,group=1,value=v4.5", "4.5"),
    ],
)
def test_match(tag: str, entry: str, name: str) -> None:
    assert decided(f"refs/tags/{tag}", f"type=match,{entry}").names == (name, "latest")


@pytest.mark.parametrize(
    ("ref", "entry", "name"),
    [
        ("master", "type=edge", "edge"),
        ("dev", "type=edge,branch=dev", "edge"),
        ("dev", "type=sha", "sha-90dd603"),
        ("dev", "type=sha,prefix=,format=long", SHA),
        ("dev", "type=raw,value=foo", "foo"),
        ("dev", "type=raw,foo", "foo"),
        ("dev", "type=raw,value=a/b:c", "a-b-c"),
        ("a/b", "type=raw,value={{branch}}-{{sha}}", "a-b-90dd603"),
        ("dev", "type=raw,value={{date 'YYYYMMDD-hhmmss' tz='Asia/Tokyo'}}", "20210327-120000"),
        ("dev", "type=raw,value={{commit_date 'YYYY-MM-DD'}}", "2021-03-25"),
        ("dev", 'type=raw,"value=a,b"', "a-b"),
        ("refs/pull/2/merge", "type=raw,value={{base_ref}}", "release-1"),
        ("dev", "type=ref,event=branch,prefix=p-,suffix=-{{sha}}", "p-dev-90dd603"),
        ("dev", "type=raw,value=x,enable={{is_not_default_branch}}", "x"),
    ],
)
def test_the_other_kinds(ref: str, entry: str, name: str) -> None:
    assert decided(ref, entry).names == (name,)


def test_a_schedule_is_nightly_or_a_date() -> None:
    assert decided("master", "type=schedule", kind="schedule").names == ("nightly",)
    dated = decided("master", "type=schedule,pattern={{date 'YYYYMMDD'}}", kind="schedule")
    assert dated.names == ("20210326",)
    assert dated.tags[0].mutable


def test_the_priority_orders_and_the_first_tag_is_the_version() -> None:
    entries = ("type=sha", "type=ref,event=branch", "type=raw,value=x,priority=1001")
    found = decided("master", *entries)
    assert found.names == ("x", "master", "sha-90dd603")
    assert found.labels["org.opencontainers.image.version"] == "x"


def test_flavor_dresses_every_entry_without_its_own() -> None:
    flavor = Flavor(prefix="pre-", suffix="-post", prefix_latest=True)
    found = decided(
        "refs/tags/v1.2.3", "type=semver,pattern={{version}}", "type=sha", flavor=flavor
    )
    assert found.names == ("pre-1.2.3-post", "sha-90dd603-post", "pre-latest")
    never = decided("refs/tags/v1.2.3", "type=ref,event=tag", flavor=Flavor(latest="false"))
    assert never.names == ("v1.2.3",)
    assert decided("x", "type=sha", flavor=Flavor(latest="true")).names == ("sha-90dd603", "latest")


def test_entries_that_give_nothing_are_told_and_all_of_them_are_an_error() -> None:
    found = decided("master", *DEFAULT)
    assert [one.entry for one in found.skipped] == [
        "type=schedule",
        "type=ref,event=tag",
        "type=ref,event=pr",
    ]
    with pytest.raises(NoRuleMatches, match="no entry of the rule") as raised:
        decided("master", "type=semver,pattern={{version}}", "type=sha,enable=false")
    assert "no git tag was pushed" in raised.value.__notes__[0]


def test_semver_takes_the_version_that_commits_ask_for() -> None:
    rule = TagRule(("type=semver,pattern={{major}}.{{minor}}",), version="conventional")
    commits = (Commit("a" * 40, message="feat: a"),)
    situation = Situation(Event.of("main"), HEAD, {}, CommitHistory("v1.2.0", commits=commits))
    found = decide(TagsSection(rules=(rule,)), situation)
    assert found.names == ("1.3", "latest")
    assert found.git_tag is not None


def test_what_never_moves_is_told_from_what_does() -> None:
    found = decided(
        "refs/tags/v1.2.3",
        "type=semver,pattern={{version}}",
        "type=semver,pattern={{major}}",
        "type=sha",
        "type=raw,value=stable",
    )
    moves = {tag.name: tag.mutable for tag in found.tags}
    assert moves == {
        "1.2.3": False, "1": True, "stable": True, "sha-90dd603": False, "latest": True,
    }  # fmt: skip


def test_labels_of_the_file_come_over_the_usual_ones() -> None:
    labels = {"org.opencontainers.image.title": "Mine {{version}}", "a": "{{branch}}", "b": ""}
    found = decided("master", "type=ref,event=branch", labels=labels).labels
    assert found["org.opencontainers.image.title"] == "Mine master"
    assert found["org.opencontainers.image.source"] == "https://github.com/octocat/hello"
    assert found["org.opencontainers.image.created"] == "2021-03-25T15:00:00Z"
    assert (found["a"], "b" in found) == ("master", False)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("type=foo", "there is no type"),
        ("type=sha,nonsense=1", "there is no key"),
        ("type=ref", "event"),
        ("type=ref,event=x", "event"),
        ("type=semver", "pattern"),
        ("type=match,pattern=(", "regular expression"),
        ("type=raw", "value"),
        ("type=sha,priority=high", "whole number"),
        ("type=sha,format=middle", "format"),
    ],
)
def test_an_entry_that_is_wrong_is_refused_when_it_is_read(entry: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TagEntry.read(entry)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("type=raw,value={{nothing}}", "no expression 'nothing'"),
        ("type=raw,value={{branch", "without"),
        ("type=raw,value=x,enable=maybe", "true or false"),
        ("type=raw,value={{date 'YYYY' tz='Mars/Base'}}", "no time zone"),
        ("type=raw,value={{date 'YYYY' tz='../../etc/passwd'}}", "no time zone"),
        ("type=match,pattern=a,group=3,value=a", "no group 3"),
    ],
)
def test_an_expression_that_is_wrong_is_an_error(entry: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        decided("master", entry)


def test_dates_know_the_tokens_of_moment() -> None:
    text = render_date(NOW, "YY Q MMMM MMM M DDDD DDD D dddd ddd d WW HH h A mm s Z ZZ X [on]")
    assert (
        text == "21 1 March Mar 3 085 85 26 Friday Fri 5 12 15 3 PM 00 0 +00:00 +0000 1616770800 on"
    )
