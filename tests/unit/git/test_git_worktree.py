"""The work tree as it is now: its commit, its files, and what differs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from commits import Work
from shipline.git import GitError, read_work_tree


@pytest.fixture
def work(tmp_path: Path) -> Work:
    made = Work.init(tmp_path / "clone")
    (made.path / "a").write_text("one\n")
    made.git("add", ".")
    made.commit("feat: begin")
    return made


def test_a_clean_tree_is_that_of_its_commit(work: Work) -> None:
    found = read_work_tree(work.asked)
    assert (found.commit, found.branch, found.dirty) == (
        work.git("rev-parse", "HEAD"),
        "main",
        False,
    )
    assert found.tree == work.git("rev-parse", "HEAD^{tree}")


def test_the_tree_of_changed_files_is_the_one_that_a_commit_of_them_has(work: Work) -> None:
    (work.path / "a").write_text("two\n")
    (work.path / "new").write_text("x\n")
    found = read_work_tree(work.asked)
    assert (found.dirty, found.changes) == (True, ("a", "new"))
    assert work.git("status", "--porcelain").split() == ["M", "a", "??", "new"]  # not staged
    work.git("add", ".")
    assert found.tree == work.git("write-tree")


def test_a_change_within_the_second_of_the_commit_counts(work: Work) -> None:
    moment = 1_600_000_000
    work.git("config", "core.trustctime", "false")
    os.utime(work.path / "a", (moment, moment))
    work.git("update-index", "--refresh")
    (work.path / "a").write_text("two\n")  # as many bytes as before
    for path in (work.path / "a", work.path / ".git/index"):
        os.utime(path, (moment, moment))
    found = read_work_tree(work.asked)
    work.git("add", ".")
    assert found.tree == work.git("write-tree")


def test_changes_of_ignored_paths_do_not_count(work: Work) -> None:
    clean = read_work_tree(work.asked)
    (work.path / "out").mkdir()
    (work.path / "out/report.xml").write_text("x\n")
    assert read_work_tree(work.asked, ignore=("./out/*.xml",)) == clean
    (work.path / "a").write_text("two\n")
    with_report = read_work_tree(work.asked, ignore=("out/*.xml",))
    (work.path / "out/report.xml").unlink()
    assert read_work_tree(work.asked).tree == with_report.tree


def test_a_repository_without_a_commit_has_no_work_to_ship(tmp_path: Path) -> None:
    with pytest.raises(GitError, match="no commit yet"):
        read_work_tree(Work.init(tmp_path / "empty").asked)
    with pytest.raises(GitError):
        read_work_tree(Work(tmp_path, environ=Work.init(tmp_path / "x").environ).asked)
