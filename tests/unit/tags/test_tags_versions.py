"""Versions: their order, their text, and what commit messages ask of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.git import Commit
from shipline.tags.versions import Bump, Levels, Version, read_change, version_of

words = st.one_of(
    st.integers(0, 10**9).map(str),
    st.from_regex(r"[0-9]{0,2}[a-zA-Z-][0-9a-zA-Z-]{0,5}", fullmatch=True),
)
versions = st.builds(
    Version,
    st.integers(0, 99),
    st.integers(0, 99),
    st.integers(0, 99),
    st.lists(words, max_size=3).map(tuple),
)


@given(versions)
def test_a_version_survives_its_text(version: Version) -> None:
    assert Version.parse(str(version)) == version


@given(versions, versions, versions)
def test_versions_have_a_total_order(a: Version, b: Version, c: Version) -> None:
    assert (a < b) + (b < a) + (a == b) == 1
    if a < b and b < c:
        assert a < c


@given(versions, st.sampled_from([Bump.PATCH, Bump.MINOR, Bump.MAJOR]))
def test_the_next_version_is_higher_and_no_prerelease(version: Version, level: Bump) -> None:
    following = version.base.bumped(level)
    assert following > version
    assert not following.prerelease


def test_the_order_is_that_of_the_specification() -> None:
    text = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11"
    listed = [Version.parse(one) for one in (*text.split(), "1.0.0-rc.1", "1.0.0", "1.0.1")]
    assert sorted(listed, reverse=True) == listed[::-1]


@pytest.mark.parametrize(
    "text", ["1", "1.2", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "v1.2.3", "1.2.3-a..b", "١.٢.٣"]
)
def test_what_is_no_semantic_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a semantic version"):
        Version.parse(text)


def test_a_tag_is_a_version_only_behind_its_own_prefix() -> None:
    assert version_of("api/v1.2.3", "api/v") == Version(1, 2, 3)
    assert version_of("v1.2.3", "api/v") is None
    assert version_of("vnext", "v") is None
    assert version_of("v" + "9" * 5000 + ".0.0", "v") is None


@pytest.mark.parametrize(
    ("message", "level"),
    [
        ("feat: x", Bump.MINOR),
        ("FEAT(api): x", Bump.MINOR),
        ("fix(a b): x", Bump.PATCH),
        ("perf: x", Bump.PATCH),
        ("docs: x", Bump.NONE),
        ("chore(deps)!: x", Bump.MAJOR),
        ("fix: x\n\nBREAKING CHANGE: gone", Bump.MAJOR),
        ("fix: x\n\nBREAKING-CHANGE: gone", Bump.MAJOR),
        ("anything\n\nwords\n\nBREAKING CHANGE: gone", Bump.MAJOR),
        ("fix: x\n\nthis is no BREAKING CHANGE: really", Bump.PATCH),
        ("fix: x\n\nBREAKING CHANGE:", Bump.PATCH),
        ("feat:x", Bump.NONE),
        ("feat : x", Bump.NONE),
        ("feat(: x", Bump.NONE),
        ("Merge branch 'feat: x'", Bump.NONE),
        ("", Bump.NONE),
        ("\n\n", Bump.NONE),
        ("feat: ", Bump.NONE),
    ],
)
def test_a_message_asks_for_a_level(message: str, level: Bump) -> None:
    assert Levels().of(read_change(Commit("a" * 40, message=message))) is level


def test_the_note_on_what_breaks_ends_at_the_next_footer() -> None:
    message = "feat(x)!: y\n\nBREAKING CHANGE: one\ntwo\nReviewed-by: Z\n\nmore"
    change = read_change(Commit("a" * 40, message=message))
    assert (change.breaking, change.scope, change.description) == ("one two", "x", "y")


@given(st.text())
def test_every_message_is_read(message: str) -> None:
    assert read_change(Commit("a" * 40, message=message)).commit.message == message


@pytest.mark.parametrize("filler", ["a", "(", "BREAKING CHANGE: x\n", "\n", "feat(", "x: ", "#"])
def test_a_megabyte_of_message_is_read_at_once(filler: str) -> None:
    read_change(Commit("a" * 40, message=f"feat: x\n\n{filler * (1_000_000 // len(filler))}"))
    read_change(Commit("a" * 40, message=filler.strip() * (1_000_000 // len(filler))))
