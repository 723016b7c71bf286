"""Commits in commits: squashes count for what they list, reverts take back what they name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.git import Commit
from shipline.tags.changelog import Release, markdown
from shipline.tags.proposal import highest
from shipline.tags.versions import Bump, Levels, read_changes, unreverted


def commit(number: int, message: str, *, parents: int = 1) -> Commit:
    return Commit(f"{number:040x}", tuple(f"{one:040x}" for one in range(parents)), message=message)


def level(*messages: str) -> Bump:
    """Of the messages, newest first."""
    commits = [commit(len(messages) - place, text) for place, text in enumerate(messages)]
    return highest(read_changes(commits), Levels())[0]


LOG = "Squashed commit of the following:\n\ncommit 0\nAuthor: A <a@b>\n\n"


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
        (f"{LOG}    feat: a\n    \n    BREAKING CHANGE: b\n    of c\n", Bump.MAJOR),
        (f"Search\n\n{LOG}    fix: a\n    \n    BREAKING-CHANGE: b\n", Bump.MAJOR),
        (f"{LOG}    feat: a\n    \n    no BREAKING CHANGE: b\n", Bump.MINOR),
        ("Search\n\n    BREAKING CHANGE: an example\n", Bump.NONE),
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
    assert unreverted([new, old]) == []


_TEXTS = st.text('aB cé:!#"*-', min_size=1, max_size=8).map(lambda text: f"a{text}b")
FRAGMENTS = st.sampled_from(
    [
        *("feat: a", "fix(b)!: c", 'Revert "feat: a"', "BREAKING CHANGE: d"),
        *("This reverts commit ", f"{0:040x}", f"{1:040x}", "Squashed commit of the following:"),
        *("\n", "\n\n* ", "- fix: e", "    "),
    ]
)
MESSAGES = st.lists(FRAGMENTS | st.text(max_size=4), max_size=8).map("".join)


@given(st.lists(MESSAGES, max_size=6))
def test_every_commit_that_stands_is_a_change_whatever_it_says(messages: list[str]) -> None:
    commits = [commit(place, text) for place, text in enumerate(messages)]
    told = [change.commit for change in read_changes(commits)]
    assert list(dict.fromkeys(told)) == unreverted(commits)


@given(st.lists(st.tuples(st.sampled_from(("feat", "fix", "docs")), _TEXTS) | st.integers(1, 4)))
def test_a_history_is_read_as_it_was_written(history: list[tuple[str, str] | int]) -> None:
    """Newest first; a number is a revert of the commit that is so many places older."""
    commits, expected, gone = [], {}, set[int]()
    for place, entry in enumerate(history):
        if isinstance(entry, int):
            commits.append(commit(place, revert(place + entry, "x: y")))
            expected[place] = ("revert", "x: y")
            if place not in gone and place + entry < len(history):
                gone |= {place, place + entry}
        else:
            commits.append(commit(place, "{}: {}".format(*entry)))
            expected[place] = entry
    found = [(change.type, change.description) for change in read_changes(commits)]
    assert found == [said for place, said in expected.items() if place not in gone]


@pytest.mark.parametrize("filler", ["* x: y\n", "* ", "- a", "* \t", 'Revert "', "(#1"])
def test_a_megabyte_of_list_is_read_at_once(filler: str) -> None:
    read_changes([commit(1, f"x\n\n* feat: a\n{filler * (1_000_000 // len(filler))}")])
    read_changes([commit(1, filler * (1_000_000 // len(filler)))])
