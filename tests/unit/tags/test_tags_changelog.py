"""The changelog: grouped, what breaks first, links where the repository is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from commits import Work
from shipline.git import Commit, GitError
from shipline.tags import Release, TagsSection, markdown, read_release
from shipline.values import replace

URL = "https://github.com/o/app"


def release(*messages: str) -> Release:
    commits = [
        Commit(f"{number:040x}", message=message) for number, message in enumerate(messages, 1)
    ]
    return Release.of("v1.1.0", 1_700_000_000, "v1.0.0", "v1.1.0", commits)


def test_what_breaks_comes_first_and_groups_follow() -> None:
    text = markdown(
        release("fix(api): b", "feat: a (#12)", "docs: c", "feat!: d\n\nBREAKING CHANGE: e"),
        url=URL,
    )
    first, second, third, fourth = (f"{number:040x}" for number in range(1, 5))
    assert text == (
        f"## [v1.1.0]({URL}/compare/v1.0.0...v1.1.0) (2023-11-14)\n"
        f"\n### Breaking changes\n\n- e ([{fourth[:7]}]({URL}/commit/{fourth}))\n"
        f"\n### Features\n\n"
        f"- a ([#12]({URL}/issues/12)) ([{second[:7]}]({URL}/commit/{second}))\n"
        f"- d ([{fourth[:7]}]({URL}/commit/{fourth}))\n"
        f"\n### Fixes\n\n- **api:** b ([{first[:7]}]({URL}/commit/{first}))\n"
    )
    assert third not in text


def test_everything_includes_what_users_do_not_notice() -> None:
    text = markdown(release("docs: c", "just words", "fix: x"), everything=True)
    assert "### Documentation" in text
    assert "### Other changes\n\n- just words (0000000)" in text
    assert "](" not in text


def test_areas_are_listed_under_the_headings_of_the_project() -> None:
    """The first area of a commit that has a heading decides; others are shown with `--all`."""
    commits = ("oci, CLI: a", "env history: b", "cli: c", "tests: d", "words", "fix(api)!: e")
    headings = {"Command line": ("cli", "env history"), "Images": ("oci", "fix")}
    found = replace(release(*commits), headings=headings)
    shown = [line for line in markdown(found).splitlines() if line]
    assert shown[1:] == [
        "### Breaking changes",
        "- **api:** e (0000000)",
        "### Command line",
        "- **env history:** b (0000000)",
        "- **cli:** c (0000000)",
        "### Images",
        "- **oci, CLI:** a (0000000)",
        "- **api:** e (0000000)",
    ]
    others = dict(found.groups(everything=True))["Other changes"]
    assert [change.line for change in others] == ["tests: d", "words"]


def test_services_have_their_own_links() -> None:
    gitlab = markdown(release("fix: a #3"), url="https://gitlab.example.org/g/app")
    assert "/-/commit/" in gitlab
    assert "/-/issues/3" in gitlab
    assert "/-/compare/v1.0.0...v1.1.0" in gitlab
    assert "%0Dv1.0.0" in markdown(release("fix: a"), url="https://bitbucket.org/g/app")


def test_text_of_commits_is_no_html() -> None:
    text = markdown(release("fix: <script>alert(1)</script> & `Vec<T>`"))
    assert "&lt;script>" in text
    assert "`Vec<T>`" in text


def test_nothing_to_tell_is_told() -> None:
    assert "No changes that users notice." in markdown(release("docs: a"))


def test_json_has_every_change() -> None:
    document = release("docs(x): a", "words").to_json()
    assert [change["type"] for change in document["changes"]] == ["docs", ""]
    assert document["from"] == "v1.0.0"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work = Work.init(tmp_path / "work")
    work.commit("feat: one")
    work.tag("v1.0.0")
    work.commit("feat: two")
    work.tag("v1.1.0")
    return work


def told(work: Work, since: str = "", until: str = "") -> tuple[str, str, list[str]]:
    found, _ = read_release(work.asked, TagsSection(), since=since, until=until)
    return found.title, found.since, [change.description for change in found.changes]


def test_a_version_has_the_commits_since_the_version_before(work: Work) -> None:
    assert told(work) == ("v1.1.0", "v1.0.0", ["two"])
    assert told(work, until="v1.0.0") == ("v1.0.0", "", ["one"])


def test_head_is_the_version_that_it_would_get_on_any_branch(work: Work) -> None:
    work.git("checkout", "-q", "-b", "topic")
    work.commit("fix: three")
    assert told(work) == ("v1.1.1", "v1.1.0", ["three"])


def test_ends_can_be_named(work: Work) -> None:
    work.commit("fix: three")
    assert told(work, "v1.0.0")[2] == ["three", "two"]
    assert told(work, "HEAD~1", "HEAD")[2] == ["three"]
    with pytest.raises(GitError, match="no commit 'nothing'"):
        told(work, "nothing")
    with pytest.raises(GitError, match="no commit '--output=x'"):
        told(work, "--output=x")


def test_merges_without_words_of_their_own_are_left_out(work: Work) -> None:
    work.git("checkout", "-q", "-b", "side")
    work.commit("fix: side")
    work.git("checkout", "-q", "main")
    work.merge("side", "Merge branch 'side'")
    assert told(work)[2] == ["side"]
