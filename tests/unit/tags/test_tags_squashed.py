"""Commits in commits: squashes count for what they list, reverts take back what they name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.git import Commit
from shipline.tags.changelog import Release, markdown
from shipline.tags.commits import Levels, read_changes, standing
from shipline.tags.proposal import highest
from shipline.tags.versions import Bump


def commit(number: int, message: str, *, parents: int = 1) -> Commit:
    return Commit(f"{number:040x}", tuple(f"{one:040x}" for one in range(parents)), message=message)


def level(*messages: str) -> Bump:
    """Of the messages, newest first."""
    commits = [commit(len(messages) - place, text) for place, text in enumerate(messages)]
    return highest(read_changes(commits), Levels())[0]


def revert(number: int, subject: str, word: str = "Revert") -> str:
    return f'{word} "{subject}"\n\nThis reverts commit {number:040x}.\n'


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Search (#7)\n\n* feat: search\n\n* fix: typo\n", Bump.MINOR),
        ("Search (!7)\r\n\r\n* wip\r\n* fix(a): typo\r\n", Bump.PATCH),
        ("docs: say more (#7)\n\n- feat(api)!: gone\n- docs: words", Bump.MAJOR),
        ("Search (#7)\n\n* words\n\nBREAKING CHANGE: gone", Bump.MAJOR),
        ("Update left-pad\n\nBumps left-pad.\n\n* feat!: of another project", Bump.NONE),
        ("Squashed commit of the following:\n\ncommit 0\n\n    feat: a\n", Bump.MINOR),
        ("Search\n\n*feat: no list\n", Bump.NONE),
        ("Search\n\nfeat: no list\n", Bump.NONE),
    ],
)
def test_a_squash_counts_for_the_commits_that_its_body_lists(message: str, expected: Bump) -> None:
    assert level(message) is expected


def test_a_merge_counts_for_nothing_that_its_commits_say_themselves() -> None:
    merge = commit(3, "Merge branch 'x'\n\n* feat: search", parents=2)
    assert highest(read_changes([merge]), Levels())[0] is Bump.NONE


def test_the_changelog_has_each_line_of_a_squash_once() -> None:
    message = "feat: search (#7)\n\n* feat: search\n* fix: typo\n* fix: typo\n* words"
    release = Release.of("v1.1.0", 0, "v1.0.0", "v1.1.0", [commit(10, message)])
    assert [one.line for one in release.changes] == ["feat: search (#7)", "fix: typo"]
    assert markdown(release).count("typo") == 1


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ((revert(1, "feat: a"), "feat: a"), Bump.NONE),
        ((revert(1, "feat: a"), "fix: b", "feat: a"), Bump.PATCH),
        ((revert(2, "fix: b"), "fix: b", "feat: a"), Bump.MINOR),
        ((revert(2, "feat: a"), "feat: a", "fix: b"), Bump.PATCH),
        ((revert(2, "x", "Reapply"), revert(1, "feat: a"), "feat: a"), Bump.MINOR),
        ((revert(900, "feat: a"),), Bump.PATCH),  # what was released before
        (('Revert "feat: a" (#8)\n\nReverts owner/name#7',), Bump.PATCH),
        (("revert: a\n\nThis reverts commit 0000001.", "feat: a"), Bump.MINOR),
    ],
)
def test_a_revert_takes_back_what_it_names(messages: tuple[str, ...], expected: Bump) -> None:
    assert level(*messages) is expected


def test_a_shortened_revert_counts_where_it_names_one_commit() -> None:
    old = Commit("abcdef0123" + "0" * 30, message="feat: a")
    new = Commit("9" * 40, message="revert: a\n\nThis reverts commit abcdef0123.")
    assert standing([new, old]) == []


@given(st.lists(st.text(max_size=40), max_size=6))
def test_any_messages_are_read(messages: list[str]) -> None:
    commits = [commit(place, text) for place, text in enumerate(messages)]
    assert len(read_changes(commits)) >= len(standing(commits))


@pytest.mark.parametrize("filler", ["* x: y\n", "* ", "- a", "* \t", 'Revert "', "(#1"])
def test_a_megabyte_of_list_is_read_at_once(filler: str) -> None:
    read_changes([commit(1, f"x\n\n* feat: a\n{filler * (1_000_000 // len(filler))}")])
    read_changes([commit(1, filler * (1_000_000 // len(filler)))])
