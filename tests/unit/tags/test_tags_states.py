"""Real repositories in every state a pipeline meets: what is decided, and what stays as it was.

The cases are those in which other tools fail: detached heads, shallow clones, merge commits of
pull requests, two pipelines at once.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from commits import Work, with_remote
from shipline.errors import ShiplineError, UsageError
from shipline.git import GitError, Reserved, ShallowClone, TagTaken, reserve_tag
from shipline.tags import Decision, Event, TagRule, TagsSection, decide, reserve, survey

pytestmark = pytest.mark.slow

USUAL = TagsSection()


def decided(
    work: Work, ref: str = "", section: TagsSection = USUAL, *, fetch: bool = False, pr: str = ""
) -> Decision:
    event = Event.of(ref, number=pr) if ref or pr else Event()
    return decide(section, survey(work.asked, section, event, fetch=fetch))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Work, Path]:
    return with_remote(tmp_path)


def test_reading_leaves_the_repository_as_it_was(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.commit("feat: two")
    before = work.state(), sorted((work.path / ".git").rglob("*"))
    assert decided(work).names == ("v1.1.0",)
    assert (work.state(), sorted((work.path / ".git").rglob("*"))) == before


def test_two_runs_are_equal_byte_for_byte(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.commit("feat: two")
    one, two = (json.dumps(decided(work).to_json()) for _ in range(2))
    assert one == two


def test_a_detached_head_belongs_to_the_only_branch_that_has_it(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.commit("feat: two")
    work.git("push", "-q", "origin", "main")
    work.git("checkout", "-q", "--detach")
    found = decided(work)
    assert (found.event.ref, found.names) == ("refs/heads/main", ("v1.1.0",))


def test_a_detached_head_with_several_branches_lists_them(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.git("push", "-q", "origin", "main:develop", "main:feature/x")
    work.git("checkout", "-q", "--detach")
    with pytest.raises(UsageError, match="develop, feature/x, main") as raised:
        decided(work)
    assert "--ref" in raised.value.hint
    assert decided(work, "develop").names[1] == "latest"


def test_a_detached_head_on_no_branch_is_an_error(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.git("checkout", "-q", "--detach")
    work.commit("feat: nowhere")
    with pytest.raises(UsageError, match="no branch contains it"):
        decided(work)


def shallow(pair: tuple[Work, Path], place: Path, *options: str) -> Work:
    work, remote = pair
    work.commit("feat: two")
    work.commit("docs: three")
    work.git("push", "-q", "origin", "main", "main:develop")
    return Work.clone(remote, place / "shallow", "--depth=1", *options)


def test_a_shallow_clone_never_guesses(pair: tuple[Work, Path], tmp_path: Path) -> None:
    clone = shallow(pair, tmp_path)
    with pytest.raises(ShallowClone, match="lacks older versions") as raised:
        decided(clone)
    assert "git fetch --tags --unshallow origin" in raised.value.hint


def test_a_shallow_clone_is_completed_where_that_is_allowed(
    pair: tuple[Work, Path], tmp_path: Path
) -> None:
    clone = shallow(pair, tmp_path)
    assert decided(clone, fetch=True).names == ("v1.1.0",)


def test_tags_alone_would_give_a_wrong_version(pair: tuple[Work, Path], tmp_path: Path) -> None:
    clone = shallow(pair, tmp_path)
    clone.git("fetch", "-q", "--tags", "--depth=1")
    assert clone.git("tag", "--merged", "HEAD") == ""
    with pytest.raises(ShallowClone):
        decided(clone)


def test_a_rule_without_version_needs_no_history(pair: tuple[Work, Path], tmp_path: Path) -> None:
    clone = shallow(pair, tmp_path, "--branch=develop")
    assert decided(clone).names[1] == "latest"
    assert clone.git("rev-parse", "--is-shallow-repository") == "true"


def test_a_merge_of_a_pull_request_is_named_by_its_head(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.git("checkout", "-q", "-b", "topic")
    head = work.commit("feat: topic")
    work.git("checkout", "-q", "--detach", "main")
    merge = work.merge("topic", "Merge topic into main")
    found = decided(work, "refs/pull/7/merge")
    assert found.names == (f"pr-7-{head[:12]}",)
    assert (found.commit, found.push) == (merge, False)
    assert found.annotations["org.opencontainers.image.revision"] == head
    assert found.annotations["org.shipline.pull-request.merge"] == merge


def test_a_shallow_clone_of_a_merge_knows_the_head_too(
    pair: tuple[Work, Path], tmp_path: Path
) -> None:
    work, remote = pair
    work.git("checkout", "-q", "-b", "topic")
    head = work.commit("feat: topic")
    work.git("checkout", "-q", "--detach", "main")
    work.merge("topic", "Merge topic into main")
    work.git("push", "-q", "origin", "HEAD:refs/pull/7/merge")
    clone = Work.init(tmp_path / "shallow")
    clone.git("remote", "add", "origin", f"file://{remote}")
    clone.git("fetch", "-q", "--depth=1", "origin", "refs/pull/7/merge")
    clone.git("checkout", "-q", "--detach", "FETCH_HEAD")
    assert decided(clone, "refs/pull/7/merge").names == (f"pr-7-{head[:12]}",)


def test_the_highest_version_in_history_counts_not_the_last_made(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.commit("feat: two")
    work.tag("v2.0.0")
    work.commit("fix: three")
    work.tag("v1.5.0")
    work.commit("fix: four")
    assert decided(work).names == ("v2.0.1",)


def test_versions_of_other_branches_do_not_count(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    for number in range(1, 13):
        work.git("checkout", "-q", "-b", f"line{number}", "main")
        work.commit("feat: other line")
        work.tag(f"v{number}.5.0")
    work.git("checkout", "-q", "main")
    work.commit("fix: here")
    assert decided(work).names == ("v1.0.1",)


def test_commits_on_both_sides_of_a_merge_count(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.git("checkout", "-q", "-b", "side")
    work.commit("feat!: side")
    work.git("checkout", "-q", "main")
    work.commit("fix: main")
    work.merge("side", "Merge side")
    assert decided(work).names == ("v2.0.0",)


def test_a_tagged_commit_keeps_its_version(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.commit("fix: two")
    work.tag("v5.0.0")
    assert decided(work).names == ("v5.0.0",)
    assert decided(work, "refs/tags/v5.0.0").names == ("v5.0.0",)


def test_a_name_that_is_only_a_tag_is_one(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    assert decided(work, "v1.0.0").event.kind == "tag"
    work.git("branch", "v1.0.0")
    assert decided(work, "main").names == ("v1.0.0",)
    with pytest.raises(ShiplineError, match="no rule matches refs/heads/v1"):
        decided(work, "v1.0.0")


def test_an_older_commit_is_released_and_moves_nothing(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.commit("feat: two")
    work.commit("feat: three")
    work.git("push", "-q", "origin", "main", "main:develop")
    work.git("checkout", "-q", "-B", "main", "HEAD~1")
    assert decided(work).names == ("v1.1.0",)
    found = decided(work, "develop")
    assert [tag.mutable for tag in found.tags] == [False]
    assert "superseded" in found.skipped[0].reason


def test_a_path_filter_and_a_prefix_keep_a_monorepo_apart(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    api = TagsSection(tag_prefix="api/v", paths=("api/**",))
    web = TagsSection(tag_prefix="web/v", paths=("web/**",))
    work.commit("feat: api", "api/main")
    work.tag("api/v1.0.0")
    work.commit("feat: web", "web/main")
    work.tag("web/v3.0.0")
    work.commit("fix: api", "api/main")
    assert decided(work, section=api).names == ("v1.0.1",)
    assert decided(work, section=web).names == ()


def test_a_reserved_version_is_this_commits_from_then_on(pair: tuple[Work, Path]) -> None:
    work, remote = pair
    work.commit("feat: two")
    found = reserve(work.asked, USUAL, Event())
    assert found.names == ("v1.1.0",)
    there = Work(remote, environ=work.environ)
    before = there.git("for-each-ref")
    assert reserve(work.asked, USUAL, Event()).names == ("v1.1.0",)
    assert there.git("for-each-ref") == before


def test_who_comes_second_counts_on(pair: tuple[Work, Path], tmp_path: Path) -> None:
    work, remote = pair
    other = Work.clone(remote, tmp_path / "other")
    work.commit("feat: two")
    work.git("push", "-q", "origin", "main")
    assert reserve(work.asked, USUAL, Event()).names == ("v1.1.0",)
    other.git("pull", "-q", "--no-tags")
    other.commit("fix: three")
    assert decided(other).names == ("v1.1.0",)  # it has not heard of the tag
    assert reserve(other.asked, USUAL, Event()).names == ("v1.1.1",)


def test_an_older_commit_that_comes_second_gets_no_version(
    pair: tuple[Work, Path], tmp_path: Path
) -> None:
    work, remote = pair
    work.commit("feat: two")
    work.git("push", "-q", "origin", "main")
    late = Work.clone(remote, tmp_path / "late")
    work.commit("fix: three")
    assert reserve(work.asked, USUAL, Event()).names == ("v1.1.0",)
    found = reserve(late.asked, USUAL, Event())
    assert (found.names, found.push) == ((), False)
    assert "which contains this commit" in found.version_reason


def test_pipelines_at_once_get_versions_of_their_own(
    pair: tuple[Work, Path], tmp_path: Path
) -> None:
    work, remote = pair
    clones = []
    for number in range(4):
        work.git("checkout", "-q", "-B", f"b{number}", "v1.0.0")
        work.commit(f"feat: {number}")
        work.git("push", "-q", "origin", f"b{number}")
        place = tmp_path / f"clone{number}"
        clones.append(Work.clone(remote, place, f"--branch=b{number}"))
    section = TagsSection(rules=(TagRule(("v{version}",), version="conventional"),))
    found: list[str] = []

    def run(clone: Work) -> None:
        found.extend(reserve(clone.asked, section, Event()).names)

    threads = [threading.Thread(target=run, args=(clone,)) for clone in clones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["v1.1.0", "v1.1.1", "v1.1.2", "v1.1.3"]


def test_twelve_pipelines_may_be_faster(
    pair: tuple[Work, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, _ = pair
    work.commit("feat: two")
    left = [TagTaken("v1.1.0", "0" * 40)] * 12

    def reserve_late(*words: Any) -> Reserved:
        if left:
            raise left.pop()
        return reserve_tag(*words)

    monkeypatch.setattr("shipline.tags.repository.reserve_tag", reserve_late)
    monkeypatch.setattr("shipline.tags.repository._PAUSE_S", 0.0)
    assert reserve(work.asked, USUAL, Event()).names == ("v1.1.0",)
    assert not left


def test_without_remote_nothing_can_be_reserved(tmp_path: Path) -> None:
    work = Work.init(tmp_path / "work")
    work.commit("feat: one")
    assert decided(work).names == ("v0.1.0",)
    with pytest.raises(GitError, match="no remote"):
        reserve(work.asked, USUAL, Event())


def test_a_repository_without_commits_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(GitError, match="no commit yet"):
        decided(Work.init(tmp_path / "work"))


def test_a_bare_repository_and_a_worktree_are_as_good(
    pair: tuple[Work, Path], tmp_path: Path
) -> None:
    work, remote = pair
    work.commit("feat: two")
    work.git("push", "-q", "origin", "main")
    assert decided(Work(remote, environ=work.environ)).names == ("v1.1.0",)
    work.git("worktree", "add", "-q", "-b", "feature/y", str(tmp_path / "tree"))
    found = decided(Work(tmp_path / "tree", environ=work.environ))
    assert found.names[0].startswith("feature-y-")


def test_odd_tags_and_branches_are_no_trouble(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    for name in ("v", "v1", "vnext", "v1.0.0+x", "ü-(a)'!@#$%&+=,;<>|{}`/x", "v01.2.3"):
        work.git("tag", name)
    work.git("checkout", "-q", "-b", "feature/ü (x)'!@#".replace(" ", ""))
    (name,) = decided(work).names
    assert name.startswith("feature-")
    assert decided(work, "main").version == "1.0.0"


def test_every_trouble_is_one_of_ours(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    head = work.path / ".git" / "refs" / "heads" / "main"
    head.write_text("f" * 40 + "\n")
    with pytest.raises(ShiplineError):
        decided(work)


def test_a_pushed_tag_of_another_commit_is_not_given_to_this_one(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.commit("feat: two")
    assert decided(work, "refs/tags/v7.0.0").names == ("v7.0.0",)  # not fetched, so CI is believed
    with pytest.raises(GitError, match=r"the git tag v1\.0\.0 is on [0-9a-f]{12}, but"):
        decided(work, "refs/tags/v1.0.0")
