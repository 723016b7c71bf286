"""`shipline gate` and `shipline hooks`, as a person runs them."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from commands import run_shipline
from shipline.gates import install_hooks
from shipline.git import Git

BIN = Path(sys.executable).parent
COVERED = b'<coverage line-rate="1"><class filename="a.py"><lines>%s</lines></class></coverage>'
ENVIRON = {
    **{key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "GITHUB_"))},
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "a"),
    **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "a@example"),
}
CONFIG = """
gates:
  coverage:
    reports: coverage.xml
    min: 50
    early: true
  tests:
    reports: junit.xml
"""


def run(directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=directory, env={**ENVIRON, **environ}, capture_output=True, text=True
    )


def gate(directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    found = run_shipline("gate", *arguments, cwd=directory, environ={**ENVIRON, **environ})
    assert "Traceback" not in found.stderr
    return found


def cover(directory: Path, *hits: int) -> None:
    lines = b"".join(b'<line number="%d" hits="%d"/>' % pair for pair in enumerate(hits, 1))
    (directory / "coverage.xml").write_bytes(COVERED % lines)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with gates, and a first commit."""
    run(tmp_path, "git", "init", "-q", "-b", "main")
    (tmp_path / "shipline.yaml").write_text(CONFIG)
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("*.xml\n")
    run(tmp_path, "git", "add", ".")
    run(tmp_path, "git", "commit", "-q", "-m", "first")
    return tmp_path


def test_options_alone_are_enough(tmp_path: Path) -> None:
    cover(tmp_path, 1, 1, 1, 0)
    assert gate(tmp_path, "--coverage", "coverage.xml").returncode == 9
    done = gate(tmp_path, "--coverage", "coverage.xml", "--coverage-min", "75")
    assert done.returncode == 0 and "3 of 4 lines ran" in done.stdout
    done = gate(tmp_path, "--report", "coverage.xml", "--report", "nothing.json")
    assert done.returncode == 9 and "nothing.json does not exist" in done.stdout
    done = gate(tmp_path, "--report", "cobertura:coverage.xml", "--coverage-min", "0")
    assert done.returncode == 0


def test_the_report_of_another_tool_is_status_11_with_the_way_out(tmp_path: Path) -> None:
    leak = [{"RuleID": "aws-access-token", "Secret": "AKIA", "File": "a.py", "StartLine": 4}]
    (tmp_path / "leaks.json").write_text(json.dumps(leak))
    for asked in ("--report=leaks.json", "--vulnerabilities=leaks.json", "--secrets=leaks.json"):
        done = gate(tmp_path, asked)
        assert done.returncode == 11 and "the JSON of gitleaks" in done.stdout, done.stdout
        assert "gitleaks detect --report-format sarif" in done.stdout


def test_nothing_to_judge_by_is_no_success(tmp_path: Path) -> None:
    assert gate(tmp_path).returncode == 2
    assert gate(tmp_path, "--report", "what:coverage.xml").returncode == 2
    (tmp_path / "empty").write_bytes(b"")
    assert gate(tmp_path, "--report", "empty").returncode == 11


def test_the_configuration_is_used_and_options_are_laid_over_it(project: Path) -> None:
    cover(project, 1, 0)
    done = gate(project)
    assert done.returncode == 11 and "junit.xml does not exist" in done.stdout
    assert gate(project, "coverage").returncode == 0
    assert gate(project, "coverage", "--coverage-min", "60").returncode == 9
    assert gate(project, "covrage").returncode == 2
    (project / "sub").mkdir()
    assert gate(project / "sub", "coverage").returncode == 0


def test_waivers_of_a_file_end(tmp_path: Path) -> None:
    cover(tmp_path, 0)
    (tmp_path / "waivers.yaml").write_text(
        "- {gate: coverage, owner: team, reason: first release, until: 2026-06-30}\n"
    )
    arguments = ("--coverage", "coverage.xml", "--waivers", "waivers.yaml", "--now")
    now = "2026-06-30T23:00"
    os.utime(tmp_path / "coverage.xml", (1_700_000_000, 1_700_000_000))
    done = gate(tmp_path, *arguments, now)
    assert done.returncode == 0 and "waived until 2026-06-30 by team" in done.stdout
    assert gate(tmp_path, *arguments, "2026-07-01T00:00").returncode == 9
    (tmp_path / "waivers.yaml").write_text("- {gate: coverage, owner: team, reason: x}\n")
    done = gate(tmp_path, *arguments, now)
    assert done.returncode == 3 and "waivers.yaml: waiver 1" in done.stderr
    (tmp_path / "waivers.yaml").write_text("- {gate: a, onwer: x}\n")
    assert "unknown key 'onwer'" in gate(tmp_path, *arguments, now).stderr
    (tmp_path / "waivers.yaml").write_text("- [\n")
    assert gate(tmp_path, *arguments, now).returncode == 3


def test_json_is_the_baseline_of_the_next_run(tmp_path: Path) -> None:
    cover(tmp_path, 1, 1)
    first = gate(tmp_path, "--coverage", "coverage.xml", "--json", "-o", "old.json")
    assert first.returncode == 0 and "pass" in first.stdout
    document = json.loads((tmp_path / "old.json").read_text())
    assert document["gates"][0]["reports"][0]["digest"].startswith("sha256:")
    cover(tmp_path, 1, 0)
    arguments = ("--coverage", "coverage.xml", "--coverage-min", "0", "--max-drop", "1")
    done = gate(tmp_path, *arguments, "--baseline", "old.json")
    assert done.returncode == 9 and "50.0 % after 100.0 %" in done.stdout
    statement = {"_type": "https://in-toto.io/Statement/v1", "predicate": document}
    (tmp_path / "statement.json").write_text(json.dumps(statement))
    assert gate(tmp_path, *arguments, "--baseline", "statement.json").returncode == 9
    (tmp_path / "old.json").write_text("{}")
    assert gate(tmp_path, *arguments, "--baseline", "old.json").returncode == 3


def test_github_gets_annotations_and_a_summary(tmp_path: Path) -> None:
    sarif = {
        "ruleId": "R",
        "level": "error",
        "message": {"text": "bad\n::error::|x|"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": "src/a.py"},
                    "region": {"startLine": 3},
                }
            }
        ],
    }
    document = {
        "version": "2.1.0",
        "runs": [{"tool": {"driver": {"name": "lint"}}, "results": [sarif]}],
    }
    (tmp_path / "r.sarif").write_text(json.dumps(document))
    summary = str(tmp_path / "summary.md")
    arguments = ("--analysis", "r.sarif", "--format", "github")
    done = gate(tmp_path, *arguments, GITHUB_STEP_SUMMARY=summary)
    assert done.returncode == 9
    lines = done.stdout.splitlines()
    assert "::error file=src/a.py,line=3,title=analysis%3A findings::bad%0A::error::|x|" in lines
    assert all(line.startswith("::error ") for line in lines)
    assert "Quality gates: refused" in Path(summary).read_text()
    done = gate(tmp_path, "--analysis", "r.sarif", "--format", "sarif")
    (result,) = json.loads(done.stdout)["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 3


def test_a_report_that_is_older_than_the_commit_is_status_11(project: Path) -> None:
    cover(project, 1)
    now = os.stat(project / "coverage.xml").st_mtime
    assert gate(project, "coverage").returncode == 0
    os.utime(project / "coverage.xml", (now - 7200, now - 7200))
    stale = gate(project, "coverage")
    assert stale.returncode == 11 and "older than what is judged" in stale.stdout
    outside = gate(project, "-C", "/", "--coverage", str(project / "coverage.xml"))
    assert outside.returncode == 0, outside.stdout
    late = {"GIT_COMMITTER_DATE": f"{int(now) + 3000} +0000"}
    run(project, "git", "commit", "-q", "--allow-empty", "-m", "later", **late)
    os.utime(project / "coverage.xml", (now, now))
    assert gate(project, "coverage").returncode == 11
    assert gate(project, "coverage", "--revision", "HEAD~1").returncode == 0


def test_json_lists_every_finding(tmp_path: Path) -> None:
    found = [{"ruleId": f"R{n}", "message": {"text": "bad"}} for n in range(500)]
    log = {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "a"}}, "results": found}]}
    (tmp_path / "r.sarif").write_text(json.dumps(log))
    told = json.loads(gate(tmp_path, "--analysis", "r.sarif", "--json").stdout)
    (check,) = told["gates"][0]["checks"]
    assert len(check["details"]) == 500
    text = gate(tmp_path, "--analysis", "r.sarif").stdout
    assert (
        "500 findings, none is allowed" in text and "and 480 more (all with --format json)" in text
    )


def test_a_merge_check_wants_the_whole_base(project: Path) -> None:
    run(project, "git", "switch", "-q", "-c", "feature")
    (project / "b.py").write_text("y = 1\n")
    run(project, "git", "add", "b.py")
    run(project, "git", "commit", "-q", "-m", "more")
    cover(project, 1)
    assert gate(project, "coverage", "--merge-check", "main").returncode == 0
    run(project, "git", "switch", "-q", "main")
    run(project, "git", "commit", "-q", "--allow-empty", "-m", "meanwhile")
    run(project, "git", "switch", "-q", "feature")
    done = gate(project, "coverage", "--merge-check", "main")
    assert done.returncode == 11 and "main has 1 commit that is not" in done.stdout
    assert gate(project, "coverage", "--merge-check", "nowhere").returncode == 12
    (project / "shipline.yaml").unlink()
    alone = gate(project, "--merge-check", "main")
    assert alone.returncode == 11 and "main has 1 commit that is not" in alone.stdout
    run(project, "git", "merge", "-q", "--no-edit", "main")
    assert gate(project, "--merge-check", "main").returncode == 0


def hooks(directory: Path, *arguments: str) -> str:
    done = run_shipline("hooks", *arguments, cwd=directory, environ=ENVIRON)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    (directory / "a.py").write_text(text)
    run(directory, "git", "add", "a.py")
    os.utime(directory / "a.py", (1_700_000_000, 1_700_000_000))
    return run(directory, "git", "commit", "-m", "change")


def test_a_commit_waits_for_the_early_gates_alone(project: Path) -> None:
    hooks(project, "install", "--pre-commit")
    refused = commit(project, "x = 2\n")
    assert (
        refused.returncode == 1 and "coverage.xml does not exist" in refused.stdout + refused.stderr
    )
    cover(project, 1, 1)
    assert commit(project, "x = 2\n").returncode == 0
    os.utime(project / "coverage.xml", (1_600_000_000, 1_600_000_000))
    stale = commit(project, "x = 3\n")
    assert stale.returncode == 1 and "older than what is judged" in stale.stdout + stale.stderr
    run(project, "git", "reset", "-q")
    unstaged = run(project, "git", "commit", "-a", "-m", "git uses another index here")
    assert unstaged.returncode == 1 and "older than what" in unstaged.stdout + unstaged.stderr


def test_a_push_waits_too_and_a_hook_that_was_there_reads_the_refs(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    remote = tmp_path_factory.mktemp("remote")
    run(remote, "git", "init", "-q", "--bare", ".")
    run(project, "git", "remote", "add", "origin", str(remote))
    before = project / ".git" / "hooks" / "pre-push"
    before.write_text("#!/bin/sh\ncat > seen.txt\n")
    before.chmod(0o755)
    hooks(project, "install", "--pre-push")
    assert run(project, "git", "push", "-q", "origin", "main").returncode == 1
    assert "refs/heads/main" in (project / "seen.txt").read_text()
    cover(project, 1)
    assert run(project, "git", "push", "-q", "origin", "main").returncode == 0


def test_a_hook_that_was_there_runs_first_and_comes_back(project: Path) -> None:
    path = project / ".git" / "hooks" / "pre-commit"
    path.write_text("#!/bin/sh\ntouch ran\nexit ${HOOK_STATUS:-0}\n")
    path.chmod(0o755)
    cover(project, 1)
    assert "after the previous hook" in hooks(project, "install", "--pre-commit")
    once = path.read_text()
    hooks(project, "install", "--pre-commit")
    assert path.read_text() == once and path.stat().st_mode & stat.S_IXUSR
    assert "pre-push: absent" in hooks(project, "status")
    assert commit(project, "x = 5\n").returncode == 0 and (project / "ran").exists()
    blocked = run(project, "git", "commit", "--allow-empty", "-m", "x", HOOK_STATUS="1")
    assert blocked.returncode == 1


def test_installing_at_once_keeps_the_previous_hook(project: Path) -> None:
    directory, git = project / ".git" / "hooks", Git(project, os.environ)
    for number in range(50):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        (directory / "pre-commit").write_text(theirs := f"#!/bin/sh\necho {number}\n")
        ready = threading.Barrier(4)

        def begin(_: int, ready: threading.Barrier = ready) -> None:
            ready.wait()
            install_hooks(git, ("pre-commit",), "shipline")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(begin, range(4)))
        assert {one.name for one in directory.iterdir()} == {
            "pre-commit",
            "pre-commit.before-shipline",
        }
        assert (directory / "pre-commit.before-shipline").read_text() == theirs


def test_uninstalling_leaves_what_was_there(project: Path) -> None:
    path = project / ".git" / "hooks" / "pre-commit"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    hooks(project, "install")
    hooks(project, "uninstall")
    assert path.read_text() == "#!/bin/sh\n"
    assert not (path.parent / "pre-push").exists()
    assert "pre-commit: another hook" in hooks(project, "uninstall")


def test_hooks_go_where_git_looks_also_in_worktrees(project: Path, tmp_path: Path) -> None:
    tree = project / "tree"
    run(project, "git", "worktree", "add", "-q", str(tree), "-b", "other")
    hooks(tree, "install", "--pre-commit")
    assert (project / ".git" / "hooks" / "pre-commit").exists()
    assert commit(tree, "x = 7\n").returncode == 1
    cover(tree, 1)
    assert commit(tree, "x = 7\n").returncode == 0
    hooks(tree, "uninstall")
    run(project, "git", "config", "core.hooksPath", "my hooks")
    hooks(project, "install")
    assert (project / "my hooks" / "pre-push").exists()


def test_a_hook_of_the_tool_that_owns_the_hooks_path_is_left_alone(project: Path) -> None:
    run(project, "git", "config", "core.hooksPath", ".husky/_")
    path = project / ".husky" / "_" / "pre-commit"
    path.parent.mkdir(parents=True)
    path.write_text('#!/bin/sh\n. "$(dirname "$0")/h"\n')
    done = run_shipline("hooks", "install", cwd=project, environ=ENVIRON)
    assert done.returncode == 3 and "add `shipline gate --hook pre-commit`" in done.stderr
    assert [one.name for one in path.parent.iterdir()] == ["pre-commit"]


def test_installing_hooks_warns_where_no_gate_is_early(project: Path) -> None:
    done = run_shipline("hooks", "install", cwd=project, environ=ENVIRON)
    assert "early" not in done.stderr
    text = (project / "shipline.yaml").read_text().replace("early: true", "early: false")
    (project / "shipline.yaml").write_text(text)
    done = run_shipline("hooks", "install", cwd=project, environ=ENVIRON)
    assert done.returncode == 0 and "no gate has `early: true`" in done.stderr


def test_the_programs_of_gates_do_not_see_the_repository_of_the_hook(project: Path) -> None:
    config = CONFIG.replace(
        "    min: 50\n", "    min: 50\n    run: env > env.txt; cp good.txt coverage.xml\n"
    )
    (project / "shipline.yaml").write_text(config)
    cover(project, 1)
    (project / "coverage.xml").rename(project / "good.txt")
    hooks(project, "install", "--pre-commit")
    assert commit(project, "x = 9\n").returncode == 0
    assert "GIT_DIR" not in (project / "env.txt").read_text()
    assert "GIT_INDEX_FILE" not in (project / "env.txt").read_text()
