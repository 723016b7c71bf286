"""The two writes: completing a shallow clone, and reserving a tag in the remote."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from commits import Work, with_remote
from shipline.git import (
    GitError,
    Reserved,
    ShallowClone,
    TagTaken,
    complete_history,
    fetch_tags,
    log,
    read_commit,
    reserve_tag,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Work, Path]:
    return with_remote(tmp_path)


def reserve(work: Work, name: str, revision: str = "HEAD") -> Reserved:
    return reserve_tag(work.asked, "origin", name, read_commit(work.asked, revision), name)


def test_a_free_tag_is_ours_and_the_clone_stays_as_it_was(pair: tuple[Work, Path]) -> None:
    work, remote = pair
    sha, before = work.commit("feat: two"), work.state()
    assert reserve(work, "v1.1.0") is Reserved.NEW
    assert work.state() == before
    there = Work(remote, environ=work.environ)
    assert there.git("rev-parse", "v1.1.0^{commit}") == sha
    assert there.git("cat-file", "-t", "v1.1.0") == "tag"


def test_two_machines_make_the_same_object(pair: tuple[Work, Path], tmp_path: Path) -> None:
    work, remote = pair
    assert reserve(work, "v1.1.0") is Reserved.NEW
    there = Work(remote, environ=work.environ)
    first = there.git("rev-parse", "v1.1.0")
    there.git("update-ref", "-d", "refs/tags/v1.1.0")
    other = Work.clone(remote, tmp_path / "other")
    other.environ |= {"GIT_COMMITTER_NAME": "Somebody Else", "TZ": "Asia/Tokyo"}
    assert reserve(other, "v1.1.0") is Reserved.NEW
    assert there.git("rev-parse", "v1.1.0") == first


def test_again_is_nothing_new_and_another_commit_is_refused(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    assert reserve(work, "v1.1.0") is Reserved.NEW
    assert reserve(work, "v1.1.0") is Reserved.OURS
    assert reserve(work, "v1.0.0") is Reserved.OURS  # made by a person, of the same commit
    first = work.git("rev-parse", "HEAD")
    work.commit("feat: other")
    with pytest.raises(TagTaken, match=first[:12]) as raised:
        reserve(work, "v1.1.0")
    assert raised.value.commit == first
    assert raised.value.retriable


def test_of_many_at_once_one_commit_wins(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    commits = [work.commit(f"feat: {number}") for number in range(6)]
    ended: dict[str, object] = {}

    def run(sha: str) -> None:
        try:
            ended[sha] = reserve(work, "v9.0.0", sha)
        except TagTaken as taken:
            ended[sha] = taken.commit

    threads = [threading.Thread(target=run, args=(sha,)) for sha in commits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [sha for sha, result in ended.items() if isinstance(result, Reserved)]
    assert all(result == winner for sha, result in ended.items() if sha != winner)


def test_a_remote_that_refuses_is_told_with_its_words(pair: tuple[Work, Path]) -> None:
    work, remote = pair
    hook = remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'tags are made by the release team' >&2\nexit 1\n")
    hook.chmod(0o755)
    work.commit()
    with pytest.raises(GitError, match="tags are made by the release team"):
        reserve(work, "v1.1.0")


def test_a_remote_that_is_away_is_one_message(pair: tuple[Work, Path]) -> None:
    work, remote = pair
    remote.rename(remote.with_name("away"))
    with pytest.raises(GitError, match="remote repository cannot be read") as raised:
        reserve(work, "v1.1.0")
    assert "credentials" in raised.value.hint


def test_a_tag_that_differs_from_the_remotes_is_one_message(pair: tuple[Work, Path]) -> None:
    work, _ = pair
    work.commit()
    work.git("tag", "-f", "v1.0.0")
    with pytest.raises(
        GitError, match=r"v1\.0\.0 of this clone differs from that of the remote"
    ) as raised:
        fetch_tags(work.asked, "origin")
    assert raised.value.hint.startswith("git tag -d v1.0.0")


@pytest.mark.parametrize("filters", [True, False])
def test_a_shallow_clone_gets_all_commits(
    pair: tuple[Work, Path], tmp_path: Path, filters: bool
) -> None:
    work, remote = pair
    for number in range(5):
        work.commit(f"fix: {number}", f"{number}.txt")
    work.git("push", "-q", "origin", "main")
    Work(remote, environ=work.environ).git("config", "uploadpack.allowFilter", str(filters).lower())
    clone = Work.clone(remote, tmp_path / "clone", "--depth=1", "--no-tags")
    head, status = clone.git("rev-parse", "HEAD"), clone.git("status", "--porcelain")
    complete_history(clone.asked, "origin")
    assert len(log(clone.asked, "HEAD")) == 6
    assert clone.git("tag", "--merged", "HEAD") == "v1.0.0"
    assert (clone.git("rev-parse", "HEAD"), clone.git("status", "--porcelain")) == (head, status)


def test_a_shallow_clone_that_cannot_be_completed_tells_the_command(
    pair: tuple[Work, Path], tmp_path: Path
) -> None:
    work, remote = pair
    work.commit()
    work.git("push", "-q", "origin", "main")
    clone = Work.clone(remote, tmp_path / "clone", "--depth=1")
    remote.rename(remote.with_name("away"))
    with pytest.raises(ShallowClone) as raised:
        complete_history(clone.asked, "origin")
    assert "git fetch --tags --unshallow origin" in raised.value.hint
    with pytest.raises(ShallowClone, match="no remote"):
        complete_history(clone.asked, "")


def test_a_shallow_remote_is_an_error(pair: tuple[Work, Path], tmp_path: Path) -> None:
    work, remote = pair
    work.commit()
    work.git("push", "-q", "origin", "main")
    middle = Work.clone(remote, tmp_path / "middle", "--depth=1")
    clone = Work.clone(middle.path, tmp_path / "clone")
    with pytest.raises(ShallowClone, match="shallow itself"):
        complete_history(clone.asked, "origin")
