"""Reading repositories: history, refs, remotes, and each trouble as one clear message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from commits import START, Work, with_remote
from shipline.git import (
    Git,
    GitError,
    GitMissing,
    NoRepository,
    abbreviate,
    branches_containing,
    is_ancestor,
    log,
    merge_base,
    merged,
    read_commit,
    read_repository,
    tags,
    web_address,
)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.init(tmp_path / "work")


def test_a_repository_without_commits_has_no_head(work: Work) -> None:
    found = read_repository(work.asked)
    assert (found.head, found.branch, found.shallow, found.remote) == ("", "main", False, "")


def test_a_detached_head_has_no_branch(work: Work) -> None:
    sha = work.commit()
    work.git("checkout", "-q", "--detach")
    found = read_repository(work.asked)
    assert (found.head, found.branch) == (sha, "")


def test_bare_repositories_worktrees_and_submodules_are_read(tmp_path: Path, work: Work) -> None:
    sha = work.commit(path="a")
    Work.clone(work.path, tmp_path / "bare", "--bare")
    assert read_repository(Git(tmp_path / "bare", work.environ)).head == sha
    work.git("worktree", "add", "-q", "-b", "other", str(tmp_path / "tree"))
    assert read_repository(Git(tmp_path / "tree", work.environ)).branch == "other"
    outer = Work.init(tmp_path / "outer")
    outer.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(work.path), "sub")
    outer.commit("feat: outer")
    assert read_repository(Git(tmp_path / "outer" / "sub", work.environ)).head == sha


def test_a_directory_without_repository_is_one_message(tmp_path: Path) -> None:
    git = Git(tmp_path, {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)})
    with pytest.raises(NoRepository, match="not in a git repository"):
        read_repository(git)
    with pytest.raises(GitError, match="not a directory"):
        read_repository(Git(tmp_path / "nothing", os.environ))


def test_a_missing_git_is_one_message(work: Work) -> None:
    environ = {**work.environ, "PATH": "/nonexistent"}
    with pytest.raises(GitMissing, match="not installed"):
        read_repository(Git(work.path, environ))


@pytest.mark.root
def test_a_repository_of_another_user_tells_the_setting(work: Work) -> None:
    work.commit()
    for path in (work.path, work.path / ".git"):
        os.chown(path, 12345, 12345)
    with pytest.raises(GitError, match="belongs to another user") as raised:
        read_repository(work.asked)
    assert f"safe.directory {work.path}" in raised.value.hint


def test_the_remote_is_origin_or_the_only_one_or_the_wanted_one(work: Work) -> None:
    work.git("remote", "add", "fork", "https://example.org/fork.git")
    assert read_repository(work.asked).remote == "fork"
    work.git("remote", "add", "origin", "https://example.org/main.git")
    found = read_repository(work.asked)
    assert (found.remote, found.url) == ("origin", "https://example.org/main.git")
    assert read_repository(work.asked, remote="fork").remote == "fork"
    with pytest.raises(GitError, match="no remote nowhere"):
        read_repository(work.asked, remote="nowhere")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("git@github.com:owner/name.git", "https://github.com/owner/name"),
        ("https://user:secret@gitlab.example.org/a/b/c.git", "https://gitlab.example.org/a/b/c"),
        ("ssh://git@example.org:2222/a/b.git", "https://example.org/a/b"),
        ("http://127.0.0.1:3000/a/b", "http://127.0.0.1:3000/a/b"),
        ("/srv/git/a.git", ""),
        ("file:///srv/git/a.git", ""),
        ("../a.git", ""),
        ("", ""),
    ],
)
def test_the_web_address_has_no_credentials(url: str, address: str) -> None:
    assert web_address(url) == address


def test_the_log_is_what_is_reachable_from_one_side_only(work: Work) -> None:
    first = work.commit("one")
    work.git("checkout", "-q", "-b", "side")
    side = work.commit("side")
    work.git("checkout", "-q", "main")
    second = work.commit("two")
    merge = work.merge("side", "merge")
    assert [one.sha for one in log(work.asked, "HEAD", since=[first])] == [merge, second, side]
    assert log(work.asked, "HEAD")[0].parents == (second, side)
    assert log(work.asked, first)[0].time == START + 60
    assert merge_base(work.asked, side, second) == first
    assert is_ancestor(work.asked, side, merge)
    assert not is_ancestor(work.asked, merge, side)
    assert not is_ancestor(work.asked, "0" * 40, merge)


def test_paths_keep_commits_that_touch_them_on_every_side(work: Work) -> None:
    work.commit("other", "other/file")
    work.git("checkout", "-q", "-b", "side")
    touched = work.commit("side", "api/deep/file")
    work.commit("documents", "api/README.md")
    work.git("checkout", "-q", "main")
    work.merge("side", "merge")
    found = log(work.asked, "HEAD", paths=["api/**", "!**/*.md"])
    assert [one.sha for one in found if len(one.parents) < 2] == [touched]
    (work.path / "other").mkdir(exist_ok=True)
    inner = Git(work.path / "other", work.environ)
    assert log(inner, "HEAD", paths=["api/**"]) == log(work.asked, "HEAD", paths=["api/**"])


def test_messages_in_other_encodings_and_of_a_megabyte_are_read(work: Work) -> None:
    work.git("config", "i18n.commitEncoding", "ISO-8859-1")
    work.commit("fix: Größe".encode("latin-1"))
    assert read_commit(work.asked, "HEAD").subject == "fix: Größe"
    work.git("config", "i18n.commitEncoding", "UTF-8")
    work.commit(b"fix: \xff\xfe broken")
    assert read_commit(work.asked, "HEAD").subject.endswith("broken")
    work.commit("feat: long\n\n" + "word " * 200_000)
    assert len(read_commit(work.asked, "HEAD").message) > 1_000_000
    work.commit("")
    assert read_commit(work.asked, "HEAD").subject == ""
    assert len(log(work.asked, "HEAD")) == 4


def test_settings_of_the_user_do_not_change_what_is_read(work: Work) -> None:
    work.commit("feat: one")
    expected = log(work.asked, "HEAD")
    for key, value in {
        "log.showSignature": "true",
        "color.ui": "always",
        "log.decorate": "full",
        "i18n.logOutputEncoding": "ISO-8859-1",
        "format.pretty": "oneline",
        "log.date": "relative",
    }.items():
        work.git("config", key, value)
    assert log(work.asked, "HEAD") == expected


def test_tags_are_peeled_and_told_whether_they_are_merged(work: Work) -> None:
    first = work.commit()
    work.tag("v1.0.0")
    work.git("tag", "light")
    work.git("checkout", "-q", "-b", "side")
    second = work.commit()
    work.tag("v2.0.0")
    assert tags(work.asked) == {"v1.0.0": first, "light": first, "v2.0.0": second}
    refs = [f"refs/tags/{name}" for name in ("v1.0.0", "v2.0.0")]
    assert merged(work.asked, refs, first) == {"refs/tags/v1.0.0"}
    assert merged(work.asked, [], first) == frozenset()
    many = [*refs, *(f"refs/tags/none{number}" for number in range(600))]
    assert merged(work.asked, many, first) == {"refs/tags/v1.0.0"}


def test_branches_of_the_remote_come_before_local_ones(tmp_path: Path) -> None:
    work, remote = with_remote(tmp_path)
    sha = work.git("rev-parse", "HEAD")
    work.git("branch", "local")
    assert branches_containing(work.asked, sha, "origin") == ("main",)
    clone = Work.clone(remote, tmp_path / "clone")
    assert branches_containing(clone.asked, sha, "origin") == ("main",)  # not HEAD of the remote
    assert set(branches_containing(work.asked, sha, "")) == {"local", "main"}


def test_ref_names_with_every_legal_byte_survive(work: Work) -> None:
    sha = work.commit()
    name = "ü-(a)'\"!@#$%&+=,;<>|{}`/x"
    work.git("tag", name)
    odd = os.fsdecode(b"bytes-\xff\xe9")
    work.git("update-ref", f"refs/tags/{odd}", sha)
    assert {name, odd} <= tags(work.asked).keys()


def test_an_abbreviation_names_one_commit(work: Work) -> None:
    sha = work.commit()
    assert abbreviate(work.asked, sha, 12) == sha[:12]
    assert abbreviate(work.asked, "f" * 40, 9) == "f" * 9


def test_a_head_that_cannot_be_read_is_not_taken_for_a_new_repository(work: Work) -> None:
    sha = work.commit("feat: a")
    (work.path / ".git/objects" / sha[:2] / sha[2:]).unlink()
    with pytest.raises(GitError, match=f"damaged or incomplete: the commit {sha[:12]} of HEAD"):
        read_repository(work.asked)


def test_a_tag_that_cannot_be_read_is_an_error(work: Work) -> None:
    work.commit("feat: a")
    (work.path / ".git/refs/tags/v8.0.0").write_text("garbage\n")
    with pytest.raises(GitError, match=r"refs/tags/v8\.0\.0 names no object"):
        tags(work.asked)


def test_local_replacements_and_grafts_change_no_history(work: Work) -> None:
    old, new = work.commit("feat: a"), work.commit("feat: b")
    work.git("replace", "--graft", new)
    (work.path / ".git/info/grafts").write_text(f"{new}\n")
    assert [one.sha for one in log(work.asked, new)] == [new, old]
    assert is_ancestor(work.asked, old, new)
