"""Decisions: the usual rules, rules of one's own, and what each of them says as reason."""

from __future__ import annotations

import json

import pytest

from shipline.errors import ConfigError
from shipline.git import Commit
from shipline.tags import (
    CommitHistory,
    Decision,
    Event,
    NoRuleMatches,
    RuleEvents,
    Situation,
    TagRule,
    TagsSection,
    decide,
)
from shipline.tags.section import match
from shipline.values import replace

SHA = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
HEAD = Commit(SHA, ("e" * 40,), 1_700_000_000, "A <a@example.org>", "A", "feat: x")


def on(ref: str, kind: str = "", number: str = "") -> Event:
    return replace(Event.of(ref, kind, number), head=OTHER if number else "")


def since(last: str, *messages: str, later: frozenset[str] = frozenset()) -> CommitHistory:
    commits = tuple(
        Commit(f"{number:040x}", message=message) for number, message in enumerate(messages, 1)
    )
    return CommitHistory(last, commits=commits, later=later)


def decided(
    event: Event,
    history: CommitHistory | None = None,
    section: TagsSection | None = None,
    tags: dict[str, str] | None = None,
    tip: str = "",
) -> Decision:
    situation = Situation(event, HEAD, tags or {}, history, tip=tip)
    return decide(section or TagsSection(), situation)


@pytest.mark.parametrize("branch", ["main", "master"])
def test_main_gets_the_next_version_and_a_git_tag(branch: str) -> None:
    found = decided(on(branch), since("v1.2.3", "fix: a", "feat: b"))
    assert found.names == ("v1.3.0",)
    assert (found.version, found.push) == ("1.3.0", True)
    assert found.git_tag is not None
    assert (found.git_tag.name, found.git_tag.commit, found.git_tag.new) == ("v1.3.0", SHA, True)
    assert not found.tags[0].mutable
    assert "“feat: b” asks for a minor version" in found.tags[0].reason


def test_nothing_releasable_on_main_is_a_patch_that_says_so() -> None:
    found = decided(on("main"), since("v1.2.3", "docs: a"))
    assert found.names == ("v1.2.4",)
    assert "none of them asks for a version, so this is a patch" in found.tags[0].reason


def test_nothing_releasable_can_mean_no_version() -> None:
    section = TagsSection(none_releasable="none")
    found = decided(on("main"), since("v1.2.3", "docs: a"), section)
    assert (found.names, found.version, found.push, found.git_tag) == ((), "", False, None)
    assert "none of them asks for a version" in found.skipped[0].reason


def test_the_first_version_is_the_initial_one() -> None:
    assert decided(on("main"), CommitHistory()).names == ("v0.1.0",)
    assert decided(on("main"), CommitHistory(), TagsSection(initial="1.0.0")).names == ("v1.0.0",)


@pytest.mark.parametrize(("on_zero", "tag"), [(True, "v1.0.0"), (False, "v0.5.0")])
def test_what_breaks_before_one_is_a_choice(on_zero: bool, tag: str) -> None:
    section = TagsSection(major_on_zero=on_zero)
    assert decided(on("main"), since("v0.4.2", "fix!: a"), section).names == (tag,)


def test_develop_gets_latest_and_its_commit() -> None:
    found = decided(on("develop"))
    assert found.names == ("dev-0123456789ab", "latest")
    assert [tag.mutable for tag in found.tags] == [False, True]
    assert found.git_tag is None
    assert "latest follows the branch develop" in found.notes[0]


def test_a_feature_branch_gets_name_and_commit() -> None:
    assert decided(on("feature/login")).names == ("feature-login-0123456789ab",)


def test_a_tag_of_a_person_wins() -> None:
    found = decided(on("refs/tags/v9.0.0"), tags={"v9.0.0": SHA})
    assert (found.names, found.version) == (("v9.0.0",), "9.0.0")
    assert found.git_tag is not None
    assert not found.git_tag.new
    assert decided(on("refs/tags/v2"), tags={"v2": SHA}).names == ("v2",)


def test_a_pull_request_has_the_head_of_its_branch_and_is_not_pushed() -> None:
    found = decided(on("refs/pull/7/merge", "pull-request", "7"))
    assert found.names == ("pr-7-ffffffffffff",)
    assert not found.push
    assert found.labels["org.opencontainers.image.revision"] == OTHER
    assert found.annotations["org.shipline.pull-request.merge"] == SHA


@pytest.mark.parametrize("ref", ["trunk", "x/y", "refs/notes/commits", "refs/tags/other", "HEAD"])
def test_no_rule_is_an_error_and_never_latest(ref: str) -> None:
    with pytest.raises(NoRuleMatches, match="no rule matches") as raised:
        decided(on(ref))
    assert "push main, push master, push develop" in raised.value.hint
    assert raised.value.exit_code == 3


def test_a_commit_that_has_a_version_keeps_it() -> None:
    found = decided(
        on("main"), CommitHistory(), tags={"v1.2.3": SHA, "v1.1.0": SHA, "v2.0.0-rc.1": SHA}
    )
    assert found.names == ("v1.2.3",)
    assert found.git_tag is not None
    assert not found.git_tag.new


def test_a_version_of_another_line_is_passed_over() -> None:
    found = decided(on("main"), since("v1.2.0", "fix: a"), tags={"v1.2.1": OTHER})
    assert found.names == ("v1.2.2",)
    assert "v1.2.1 belongs to ffffffffffff" in found.tags[0].reason


def test_a_commit_inside_a_later_release_gets_no_version() -> None:
    history = since("v1.2.0", "feat: a", later=frozenset({"v1.3.0"}))
    found = decided(on("main"), history, tags={"v1.3.0": OTHER})
    assert (found.names, found.push) == ((), False)
    assert "v1.3.0 belongs to ffffffffffff, which contains this commit" in found.version_reason


def test_moving_tags_stay_where_the_branch_went_on() -> None:
    found = decided(on("develop"), tip=OTHER)
    assert found.names == ("dev-0123456789ab",)
    assert found.skipped[0].entry == "latest"
    assert "superseded: develop has moved on" in found.skipped[0].reason


def test_prereleases_count_on_and_end_in_their_version() -> None:
    rule = TagRule(
        ("v{version}",), RuleEvents(push="next"), version="conventional", prerelease="beta"
    )
    section = TagsSection(rules=(rule,))
    history = since("v1.2.0", "feat: a")
    assert decided(on("next"), history, section).names == ("v1.3.0-beta.1",)
    tags = {"v1.3.0-beta.1": OTHER, "v1.3.0-beta.2": OTHER}
    assert decided(on("next"), history, section, tags).names == ("v1.3.0-beta.3",)
    announced = replace(history, pending="v2.0.0-rc.1")
    assert decided(on("main"), announced).names == ("v2.0.0",)


def test_a_prerelease_never_takes_the_name_of_a_release() -> None:
    templates = ("v{version}", "v{major}.{minor}.{patch}", "v{major}.{minor}", "v{major}-{sha}")
    section = TagsSection(rules=(TagRule(templates, RuleEvents(tag="v*")),))
    found = decided(on("refs/tags/v2.0.0-rc.1"), section=section)
    assert found.names == ("v2.0.0-rc.1", "v2-0123456789ab")
    assert {one.entry for one in found.skipped} == set(templates[1:3])
    assert "is a prerelease" in found.skipped[0].reason
    section = TagsSection(rules=(TagRule(("{tag}", "latest", "next"), RuleEvents(tag="v*")),))
    assert decided(on("refs/tags/v2.0.0-rc.1"), section=section).names == ("v2.0.0-rc.1", "next")
    assert "latest" in decided(on("refs/tags/v2.0.0"), section=section).names
    patterns = ("{{major}}.{{minor}}.{{patch}}", "{{major}}", "v{{version}}", "{{raw}}")
    entries = tuple(f"type=semver,pattern={one}" for one in patterns)
    section = TagsSection(rules=(TagRule(entries, RuleEvents(tag="v*")),))
    assert decided(on("refs/tags/v2.0.0-rc.1"), section=section).names == (
        "2.0.0-rc.1",
        "v2.0.0-rc.1",
    )


def test_a_monorepo_has_versions_by_prefix() -> None:
    section = TagsSection(tag_prefix="api/v", paths=("api/**",))
    found = decided(on("main"), since("api/v1.0.0", "fix: a"), section, {"v7.0.0": OTHER})
    assert found.names == ("v1.0.1",)
    assert found.git_tag is not None
    assert found.git_tag.name == "api/v1.0.1"
    assert decided(on("refs/tags/api/v3.0.0"), section=section).names == ("v3.0.0",)
    with pytest.raises(NoRuleMatches):
        decided(on("refs/tags/web/v3.0.0"), section=section)
    untouched = decided(on("main"), since("api/v1.0.0"), section)
    assert "no commit touches api/** since api/v1.0.0" in untouched.version_reason


def test_equal_situations_give_equal_bytes() -> None:
    one, two = (
        json.dumps(decided(on("main"), since("v1.0.0", "fix: a")).to_json()) for _ in range(2)
    )
    assert one == two


def test_a_checkout_of_another_commit_is_noted() -> None:
    event = replace(on("main"), sha=OTHER, source="GitHub Actions")
    found = decided(event, since("v1.0.0", "fix: a"))
    assert "runs for ffffffffffff, but 0123456789ab is checked out" in found.notes[0]


@pytest.mark.parametrize(
    ("patterns", "ref", "name"),
    [
        (("main",), "main", "main"),
        (("feature/**",), "feature/a/b", "a/b"),
        (("feature/*",), "feature/a/b", None),
        (("release/[0-9]*",), "release/1.x", "1.x"),
        (("**", "!wip/**"), "wip/x", None),
        (("!wip/**", "**"), "wip/x", "wip/x"),
        (("v?",), "v1", "1"),
        (("a.b",), "axb", None),
        (("[!a]x",), "bx", "bx"),
        (("[",), "[", "["),
    ],
)
def test_patterns(patterns: tuple[str, ...], ref: str, name: str | None) -> None:
    found = match(patterns, ref)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    "template", ["{versoin}", "v{version:3}", "{sha:3}", "a b", "x:{sha}", "-{sha}", ".x", "", "é"]
)
def test_a_template_that_cannot_be_a_tag_is_refused_when_it_is_read(template: str) -> None:
    with pytest.raises(ConfigError, match="tags: "):
        TagRule((template,), RuleEvents(push="main"))


def test_a_field_without_value_here_is_an_error() -> None:
    section = TagsSection(rules=(TagRule(("pr-{number}",), RuleEvents(push="main")),))
    with pytest.raises(ConfigError, match=r"\{number\} has no value on this event"):
        decided(on("main"), section=section)
