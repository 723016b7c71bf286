"""Ref names to tags: always legal, never two for one, and the commit is never cut."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shipline.errors import ConfigError
from shipline.git import Commit
from shipline.oci.reference import check_tag
from shipline.tags import Event, RuleEvents, Situation, TagRule, TagsSection, decide
from shipline.tags.templates import LONGEST, TemplatePiece, clean, fit, mark

SHA = "0123456789abcdef0123456789abcdef01234567"
likely = st.builds(
    str.__add__,
    st.sampled_from(["", "", "feature/", "feature-", "hotfix/", "hotfix-", "feature"]),
    st.text(alphabet="ab-/._A0@é", min_size=1, max_size=12),
)
names = st.one_of(likely, st.text(min_size=1, max_size=300))


def tag_of(name: str, template: str, section: TagsSection | None = None) -> str:
    section = section or TagsSection(rules=(TagRule((template,), RuleEvents(push="**")),))
    event = Event(ref=f"refs/heads/{name}")
    (tag,) = decide(section, Situation(event, Commit(SHA))).names
    return tag


def distinct(found: Iterable[str]) -> bool:
    listed = [*found]
    return len({*listed}) == len(listed)


@given(names)
def test_every_ref_name_gives_a_legal_tag(name: str) -> None:
    tag = tag_of(name, "b-{name}-{sha}")
    assert check_tag(tag) == tag
    assert tag.endswith(f"-{SHA[:12]}")


@given(st.sets(names, min_size=2, max_size=8))
@example({"a/b", "a-b", f"a-b-{mark('a/b')}", "a/b/", "A/B", f"a/b-{mark('a/b')}"})
@example({"feature/a", "feature-a", f"feature-a-{mark('feature-a')}", "feature//a", "feature-/a"})
@example({"feature/deadbeef", "feature-deadbeef", "feature/", "feature-", "feature"})
@example({f"{'x' * 200}a", f"{'x' * 200}b", "x" * 128})
@example({".a", "-a", "a", f"a-{mark('.a')}", mark("/")})
def test_two_refs_never_share_a_tag(refs: set[str]) -> None:
    assert distinct(tag_of(ref, "x{branch}") for ref in refs)
    assert distinct(tag_of(ref, "feature-{name}-{sha}") for ref in refs)


@given(st.sets(names, min_size=2, max_size=8))
def test_entries_of_metadata_action_keep_refs_apart_too(refs: set[str]) -> None:
    rule = TagRule(("type=ref,event=branch,prefix=b-,suffix=-z",))
    section = TagsSection(rules=(rule,))
    assert distinct(tag_of(ref, "", section) for ref in refs)


@pytest.mark.parametrize("name", ["login", "JIRA-12_fix.2", "a" * 100, "20200110"])
def test_a_name_that_is_legal_stays_as_it_is(name: str) -> None:
    assert tag_of(f"feature/{name}", "feature-{name}", _feature()) == f"feature-{name}"


def _feature() -> TagsSection:
    return TagsSection(rules=(TagRule(("feature-{name}",), RuleEvents(push="feature/**")),))


def test_what_changes_gets_a_mark() -> None:
    assert clean("a/b") == f"a-b-{mark('a/b')}"
    assert clean("a/b", unique=False) == "a-b"
    assert len(clean("x" * 500)) == LONGEST
    assert clean("///") == mark("///")


@pytest.mark.parametrize(
    "directory", ["feature", "feat", "bugfix", "hotfix", "release", "releases"]
)
def test_a_usual_directory_of_branches_becomes_plain_text(directory: str) -> None:
    assert clean(f"{directory}/add-login") == f"{directory}-add-login"
    assert clean(f"{directory}-login") == f"{directory}-login-{mark(f'{directory}-login')}"
    assert tag_of("feature/add-login", "{branch}-{sha}") == f"feature-add-login-{SHA[:12]}"


@given(names)
def test_a_mark_is_no_date(name: str) -> None:
    assert len(mark(name)) == 8
    assert not mark(name).isdecimal()


def test_case_is_kept() -> None:
    assert (clean("Fix"), clean("fix")) == ("Fix", "fix")


def test_the_commit_is_whole_in_the_longest_tag() -> None:
    tag = tag_of("feature/" + "n" * 400, "feature-{name}-{sha:40}")
    assert len(tag) == LONGEST
    assert tag.endswith(SHA)


def test_text_without_room_for_the_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 128"):
        fit((TemplatePiece("x" * 125), TemplatePiece("branch/name", ref=True)))
    with pytest.raises(ConfigError, match="must begin"):
        fit((TemplatePiece("-x"),))


@pytest.mark.parametrize("name", ["latest", "v1.2.3", "1.2", "v7", "edge", "1.2.3-rc.1"])
def test_a_branch_cannot_pass_for_a_version_or_latest(name: str) -> None:
    with pytest.raises(ConfigError, match="means something else"):
        tag_of(name, "{branch}")
    assert tag_of(name, "branch-{branch}") == f"branch-{name}"
