"""The next version is the one that git-cliff and python-semantic-release find too.

Both are installed from PyPI into an environment of their own, once, in pytest's cache directory.
"""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from commits import Work
from shipline.tags import Event, TagsSection, decide, survey
from toolboxes import toolbox

_PACKAGES = ("git-cliff==2.14.2", "python-semantic-release==10.7.0")
_MESSAGES = (
    "feat: a",
    "feat(api): b",
    "fix: c",
    "fix(x y): d",
    "perf: e",
    "docs: f",
    "chore(deps): g",
    "refactor: h",
    "style: i",
    "feat!: j",
    "fix(api)!: k",
    "fix: l\n\nBREAKING CHANGE: gone",
    "feat: m\n\nbody\n\nRefs: #1\nBREAKING CHANGE: gone",
)
# Left out, because answers differ on purpose: no conventional commit at all (git-cliff: no version,
# here a patch), types in capitals (python-semantic-release: none), no space behind the colon
# (git-cliff: a type; the specification asks for the space).


@pytest.fixture(scope="session")
def tools(pytestconfig: pytest.Config) -> Path:
    return toolbox(pytestconfig.cache.mkdir("version-tools-1"), "--only-binary=:all:", *_PACKAGES)


def history(path: Path, seed: int) -> tuple[Work, str]:
    """A repository with a version and some commits after it, on one or two sides; the version."""
    choose = random.Random(seed)
    work = Work.init(path)
    work.git("remote", "add", "origin", "https://example.org/owner/name.git")
    work.commit("chore: first")
    last = f"{choose.choice([0, 1, 2])}.{choose.randint(0, 12)}.{choose.randint(0, 3)}"
    work.tag(f"v{last}")
    for _ in range(choose.randint(1, 3)):
        work.commit(choose.choice(_MESSAGES), "main.txt")
    if choose.random() < 0.5:
        work.git("checkout", "-q", "-b", "side", f"v{last}")
        work.commit(choose.choice(_MESSAGES), "side.txt")
        work.git("checkout", "-q", "main")
        work.merge("side", "Merge branch 'side'")
    return work, last


def run(work: Work, *command: str) -> str:
    environ = {**work.environ, "GH_TOKEN": "none"}
    done = subprocess.run(command, cwd=work.path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def version(work: Work, section: TagsSection) -> str:
    return decide(section, survey(work.asked, section, Event())).version


@pytest.mark.parametrize("seeds", [range(20), range(20, 40)], ids=["0-19", "20-39"])
def test_git_cliff_finds_the_same_version(tools: Path, tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        work, _ = history(tmp_path / str(seed), seed)
        theirs = run(work, str(tools / "git-cliff"), "--bumped-version", "--offline")
        assert f"v{version(work, TagsSection())}" == theirs, work.git("log", "--format=%B%x2e")


@pytest.mark.parametrize("on_zero", [True, False])
def test_semantic_release_finds_the_same_version(
    tools: Path, tmp_path: Path, on_zero: bool
) -> None:
    """With its settings said: versions below 1.0.0, no release without a reason."""
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f"[semantic_release]\nallow_zero_version = true\nmajor_on_zero = {str(on_zero).lower()}\n"
    )
    section = TagsSection(
        none_releasable="none", major_on_zero=on_zero, patch_types=("fix", "perf")
    )
    for seed in range(100, 106) if on_zero else range(200, 204):
        work, last = history(tmp_path / str(seed), seed)
        program = (str(tools / "semantic-release"), "-c", str(settings))
        theirs = run(work, *program, "--noop", "version", "--print")
        assert (version(work, section) or last) == theirs, work.git("log", "--format=%B%x2e")


@pytest.mark.parametrize(
    "message",
    [
        "Search (#7)\n\n* feat: add search\n\n* fix: a typo",
        "fix: words here (#7)\n\n* fix: words here\n\n* feat(api)!: all gone",
        "Typos (#7)\n\n* fix: one typo\n\n* docs: other words",
        "Squashed commit of the following:\n\ncommit 0123456789012345678901234567890123456789\n"
        "Author: A <a@example.org>\nDate: 1\n\n    feat: add search\n",
    ],
)
def test_semantic_release_reads_the_list_of_a_squash_alike(
    tools: Path, tmp_path: Path, message: str
) -> None:
    work = Work.init(tmp_path / "work")
    work.git("remote", "add", "origin", "https://example.org/owner/name.git")
    work.commit("chore: first")
    work.tag("v1.0.0")
    work.commit(message)
    theirs = run(work, str(tools / "semantic-release"), "--noop", "version", "--print")
    assert version(work, TagsSection()) == theirs


def test_a_detached_head_has_a_version_where_semantic_release_has_none(
    tools: Path, tmp_path: Path
) -> None:
    work = Work.init(tmp_path / "work")
    work.git("remote", "add", "origin", "https://example.org/owner/name.git")
    work.commit("chore: first")
    work.tag("v1.0.0")
    work.commit("feat: second")
    work.git("checkout", "-q", "--detach")
    assert version(work, TagsSection()) == "1.1.0"
    program = str(tools / "semantic-release")
    done = subprocess.run(
        [program, "--noop", "version", "--print"],
        cwd=work.path,
        env={**work.environ, "GH_TOKEN": "none"},
        capture_output=True,
        text=True,
    )
    assert "1.1.0" not in done.stdout
