"""Changed lines are those of git, whatever files are called and whatever they hold."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shipline.git import Git, GitError, changed_lines

ENVIRON = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": os.devnull,
    **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "a"),
    **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "a@example"),
}


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(("git", *arguments), cwd=directory, env=ENVIRON, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with one file of ten lines on main."""
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "a.py").write_text("".join(f"line {number}\n" for number in range(1, 11)))
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    git(tmp_path, "switch", "-q", "-c", "work")
    return tmp_path


def lines(directory: Path, head: str = "HEAD", **more: bool) -> dict[str, list[int]]:
    found = changed_lines(Git(directory, ENVIRON), "main", head, **more)
    return {path: [n for span in spans for n in span] for path, spans in found.lines.items()}


def commit(directory: Path) -> None:
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "more")


def test_added_and_altered_lines_are_told_and_deleted_ones_are_not(clone: Path) -> None:
    text = (clone / "a.py").read_text().splitlines()
    text[1] = "changed"
    del text[4]
    text.append("++ new")
    (clone / "a.py").write_text("\n".join(text))
    commit(clone)
    assert lines(clone) == {"a.py": [2, 10]}


def test_text_that_looks_like_a_header_is_text(clone: Path) -> None:
    (clone / "b.sql").write_text("++ b/evil.py\n@@ -1 +1 @@\n-- x\n")
    commit(clone)
    assert lines(clone) == {"b.sql": [1, 2, 3]}


def test_what_the_base_got_meanwhile_does_not_count(clone: Path) -> None:
    (clone / "mine.py").write_text("x\n")
    commit(clone)
    git(clone, "switch", "-q", "main")
    (clone / "theirs.py").write_text("y\n")
    commit(clone)
    git(clone, "switch", "-q", "work")
    assert lines(clone) == {"mine.py": [1]}


def test_a_renamed_file_has_only_its_changed_lines(clone: Path) -> None:
    git(clone, "mv", "a.py", "b.py")
    (clone / "b.py").write_text((clone / "b.py").read_text() + "new\n")
    commit(clone)
    assert lines(clone) == {"b.py": [11]}


def test_the_index_and_the_working_tree_can_be_compared(clone: Path) -> None:
    (clone / "a.py").write_text("staged\n")
    git(clone, "add", "a.py")
    (clone / "a.py").write_text("staged\nnot staged\n")
    assert lines(clone, "", staged=True) == {"a.py": [1]}
    assert lines(clone, "") == {"a.py": [1, 2]}
    assert lines(clone) == {}


@pytest.mark.parametrize("setting", ["noprefix", "mnemonicPrefix"])
def test_settings_of_the_user_change_nothing(clone: Path, setting: str) -> None:
    git(clone, "config", f"diff.{setting}", "true")
    git(clone, "config", "diff.external", "false")
    git(clone, "config", "color.ui", "always")
    (clone / "a.py").write_text("x\n")
    commit(clone)
    assert lines(clone) == {"a.py": [1]}


def test_it_is_asked_from_a_directory_below(clone: Path) -> None:
    (clone / "sub").mkdir()
    (clone / "sub" / "b.py").write_text("x\n")
    commit(clone)
    assert lines(clone / "sub") == {"sub/b.py": [1]}
    found = changed_lines(Git(clone / "sub", ENVIRON), "main")
    assert found.files == {"a.py", "sub/b.py"}


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
    )
)
def test_any_name_of_a_file_comes_back(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if name in (".", "..") or name.lower() == ".git" or name == "a.py":
        return
    directory = tmp_path_factory.mktemp("clone")
    git(directory, "init", "-q", "-b", "main")
    git(directory, "commit", "-q", "--allow-empty", "-m", "x")
    git(directory, "switch", "-q", "-c", "work")
    (directory / name).write_text("x\n")
    git(directory, "add", "-f", "-A")
    git(directory, "commit", "-q", "-m", "more")
    found = changed_lines(Git(directory, ENVIRON), "main", "HEAD")
    if name != ".gitattributes":
        assert set(found.lines) == {name} and found.files == {name}


def test_a_base_that_is_not_there_is_told_with_the_command(clone: Path) -> None:
    with pytest.raises(GitError) as caught:
        changed_lines(Git(clone, ENVIRON), "origin/none")
    assert "git fetch" in caught.value.hint
    git(clone, "switch", "-q", "--orphan", "alone")
    git(clone, "commit", "-q", "--allow-empty", "-m", "x")
    with pytest.raises(GitError, match="no common ancestor"):
        changed_lines(Git(clone, ENVIRON), "main", "HEAD")
