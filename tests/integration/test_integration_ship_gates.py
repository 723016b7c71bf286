"""What is judged in a chain: by which gates and rules, and what a failure shows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import tags
from nodes import Node, node
from ships import Project, coverage, new_project

PASSWORD = {"SHIPLINE_KEY_PASSWORD": "secret"}
FINDING = {
    "ruleId": "no-undef",
    "level": "error",
    "message": {"text": "x is not defined"},
    "locations": [
        {"physicalLocation": {"artifactLocation": {"uri": "src/a.js"}, "region": {"startLine": 7}}}
    ],
}
COVERED = "steps: {{test: {{run: mkdir -p out && cp {name} out/c, reports: {{{gate}: out/c}}}}}}\n"
LINTED = """\
steps:
  lint: {run: "mkdir -p out; cp r.sarif out/; exit STATUS", reports: {analysis: out/r.sarif}}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("gates") / "data") as running:
        yield running


def _fresh(place: Path, registry: Node, configuration: str, **files: str) -> Project:
    image = f"image: {{image}}-{place.name.replace('_', '-')}\n"
    return new_project(place, registry, image + configuration, **{"__gitignore": "out\n", **files})


def _names(project: Project) -> list[str]:
    line = (project.root / "shipline.yaml").read_text().splitlines()[0]
    return tags(project.node, line.partition("/")[2])


def _linted(place: Path, registry: Node, *findings: object, status: int, more: str = "") -> Project:
    run = {"tool": {"driver": {"name": "lint"}}, "results": [*findings]}
    sarif = json.dumps({"version": "2.1.0", "runs": [run]})
    text = LINTED.replace("STATUS", str(status)) + more
    return _fresh(place, registry, text, r__sarif=sarif)


@pytest.mark.parametrize(("covered", "status"), [(7, 9), (8, 0)])
def test_a_step_that_feeds_a_gate_is_judged_by_its_default_rules(
    covered: int, status: int, tmp_path: Path, registry: Node
) -> None:
    text = COVERED.format(name="coverage.xml", gate="coverage")
    project = _fresh(tmp_path, registry, text, coverage__xml=coverage(covered))
    done = project.ship()
    assert done.status == status, done.err
    assert bool(_names(project)) == (status == 0)
    assert "there are no gates" not in done.err


def test_reports_behind_a_link_are_of_this_run_too(tmp_path: Path, registry: Node) -> None:
    """Gates follow links to directories, so what lies there from before is deleted as well."""
    text = COVERED.format(name="coverage.xml", gate="coverage").replace("out/c}", '"out/**/*c"}')
    project = _fresh(tmp_path, registry, text, coverage__xml=coverage(7))
    (project.root / "out").mkdir()
    (tmp_path / "before").mkdir()
    (project.root / "out" / "link").symlink_to(tmp_path / "before")
    (tmp_path / "before" / "c").write_text(coverage(8))
    assert "7 of 10" in project.ship().failed(9)
    assert _names(project) == []


def test_a_scan_that_no_gate_names_allows_no_vulnerability(tmp_path: Path, registry: Node) -> None:
    found = {"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}]}
    text = COVERED.format(name="audit.json", gate="vulnerabilities")
    project = _fresh(tmp_path, registry, text, audit__json=json.dumps(found))
    said = project.ship().failed(9)
    assert "the gate vulnerabilities refused: 1 vulnerability" in said and "CVE-1" in said
    assert _names(project) == []


def test_a_run_that_nothing_judges_says_so_from_the_plan_to_the_summary(
    tmp_path: Path, registry: Node
) -> None:
    project = _fresh(tmp_path, registry, "steps: {test: 'true'}\n")
    assert "warning: there are no gates" in project.ship("--plan").ok().out
    summary = tmp_path / "summary.md"
    done = project.ship("--summary", str(summary)).ok()
    assert done.err.splitlines()[-1].startswith("warning: there are no gates")
    assert "there are no gates" in summary.read_text()
    assert "there are no gates" not in project.ship("--only", "test").ok().err


def test_gates_of_images_are_not_judged_without_one_and_nothing_is_tagged(
    tmp_path: Path, registry: Node
) -> None:
    text = COVERED.format(name="coverage.xml", gate="coverage")
    project = _fresh(
        tmp_path, registry, f"{text}gates: {{image: {{}}}}\n", coverage__xml=coverage(8)
    )
    summary = tmp_path / "summary.md"
    done = project.ship("--skip", "build", "--summary", str(summary)).ok()
    assert "no image was pushed: image cannot be judged" in done.err
    assert "image: not judged: no image was pushed" in summary.read_text()
    assert project.states()["gates"] == "passed" and project.states()["publish"] == "skipped"
    assert _names(project) == []
    assert "image cannot be judged" not in project.ship("--resume").err


def test_what_is_not_committed_is_never_signed(tmp_path: Path, registry: Node) -> None:
    project = _fresh(tmp_path, registry, "sign: {key: release.key}\n")
    project.run("key", "generate", "-o", "release", **PASSWORD).ok()
    project.commit("build: key")
    project.write("app", "changed\n")
    name = project.ship("--allow-dirty").ok().out.partition("@")[0]  # it asks for no password
    assert ":dirty-" in name
    assert project.states()["sign"] == "skipped"
    project.run("verify", "--key", "release.pub", name).failed(9)
    assert "never signed" in project.ship("--allow-dirty", "--plan").ok().out


@pytest.mark.parametrize("status", [1, 2])
def test_a_linter_that_found_something_leaves_the_verdict_to_its_gate(
    status: int, tmp_path: Path, registry: Node
) -> None:
    allowed = "gates: {analysis: {max: 1}}\n"
    project = _linted(tmp_path, registry, FINDING, status=status, more=allowed)
    project.ship().ok()
    assert _names(project)
    assert "the gates judge" in project.run("runs", "show").ok().out


def test_the_refusal_of_a_gate_shows_what_was_found(tmp_path: Path, registry: Node) -> None:
    said = _linted(tmp_path, registry, FINDING, status=1).ship().failed(9)
    assert "src/a.js:7: no-undef: x is not defined" in said


@pytest.mark.parametrize(("findings", "status"), [((), 1), ((FINDING,), 127), ((FINDING,), 137)])
def test_a_failure_that_no_finding_explains_is_one(
    findings: tuple[object, ...], status: int, tmp_path: Path, registry: Node
) -> None:
    allowed = "gates: {analysis: {max: 9}}\n"
    project = _linted(tmp_path, registry, *findings, status=status, more=allowed)
    assert f"lint ended with {status}" in project.ship().failed(5)
    assert _names(project) == []


def test_a_linter_fails_by_itself_where_no_gate_will_judge(tmp_path: Path, registry: Node) -> None:
    project = _linted(tmp_path, registry, FINDING, status=1)
    assert "lint ended with 1" in project.ship("--only", "lint").failed(5)


def test_a_failing_step_shows_its_findings_though_it_printed_nothing(
    tmp_path: Path, registry: Node
) -> None:
    failed = '<testsuite><testcase name="adds"><failure/></testcase></testsuite>'
    text = "steps: {test: {run: cp junit.xml out.xml && exit 1, reports: {tests: out.xml}}}\n"
    said = _fresh(tmp_path, registry, text, junit__xml=failed).ship().failed(5)
    assert "adds" in said and "(no output)" in said


def test_what_reproduces_a_step_does_what_the_step_did(tmp_path: Path, registry: Node) -> None:
    script = "steps:\n  it:\n    env: {WORD: a b}\n    run: |\n"
    for line in ("printf 'one\\n'", 'echo "$WORD 100%" \\', "  two", "false", "echo never"):
        script += f"      {line}\n"
    said = _fresh(tmp_path, registry, script).ship().failed(5)
    (line,) = [one for one in said.splitlines() if "reproduce: " in one]
    again = subprocess.run(
        ["sh", "-c", line.partition("reproduce: ")[2]], capture_output=True, text=True, cwd="/"
    )
    assert (again.returncode, again.stdout) == (1, "one\na b 100% two\n")
