"""Reports of node:test and npm, made here, are judged as node and npm count."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import pytest

from shipline.gates import parse_report
from shipline.gates.reports import Coverage, ReportError, TestResults

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs node"),
]

MODULE = """
function sign(n) {
  if (n > 0) return 1;
  if (n < 0) {
    return -1;
  }
  return 0;
}
module.exports = { sign, never: () => 2 };
"""
TESTS = """
import test from 'node:test';
import assert from 'node:assert';
import { sign } from './sign.js';
test('positive', () => assert.equal(sign(3), 1));
test('wrong', () => assert.equal(sign(3), 2));
test('skipped', { skip: true }, () => {});
test('todo', { todo: true }, () => assert.equal(1, 2));
test('suite', async (t) => {
  await t.test('inner', () => assert.equal(sign(1), 1));
  await t.test('inner todo', { todo: true }, () => assert.equal(1, 2));
});
"""


def run(directory: Path, *command: str) -> str:
    environ = {key: value for key, value in os.environ.items() if key != "NODE_TEST_CONTEXT"}
    done = subprocess.run(
        command, cwd=directory, env=environ, capture_output=True, text=True, timeout=300
    )
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("node")
    (place / "sign.js").write_text(MODULE)
    (place / "sign.test.mjs").write_text(TESTS)
    return place


def counted(summary: str, name: str) -> int:
    found = re.search(rf"^# {name} (\d+)$", summary, re.MULTILINE)
    assert found, summary
    return int(found[1])


def test_node_tests_are_counted_as_node_counts(project: Path) -> None:
    reporters = ("--test-reporter=junit", "--test-reporter-destination=junit.xml")
    shown = ("--test-reporter=tap", "--test-reporter-destination=stdout")
    said = run(project, "node", "--test", *reporters, *shown, "sign.test.mjs")
    found = parse_report(BytesIO((project / "junit.xml").read_bytes())).content
    assert isinstance(found, TestResults)
    assert found.failed + found.errors == counted(said, "fail") == 1
    assert found.skipped == counted(said, "skipped") + counted(said, "todo")


def test_node_coverage_is_what_node_says(project: Path) -> None:
    coverage = ("--test", "--experimental-test-coverage")
    said = run(project, "node", *coverage, "--test-reporter=tap", "sign.test.mjs")
    run(project, "node", *coverage, "--test-reporter=lcov",
        "--test-reporter-destination=lcov.info", "sign.test.mjs")  # fmt: skip
    found = parse_report(BytesIO((project / "lcov.info").read_bytes())).content
    assert isinstance(found, Coverage)
    told = re.search(r"^# sign\.js +\| +([0-9.]+)", said, re.MULTILINE)
    assert told, said
    one = next(one for path, one in found.files.items() if path.endswith("sign.js"))
    assert one.ratio.percent == pytest.approx(float(told[1]), abs=0.01)


def test_an_audit_without_an_answer_says_so(project: Path) -> None:
    package = {"name": "a", "version": "1.0.0", "dependencies": {"left-pad": "1.3.0"}}
    (project / "package.json").write_text(json.dumps(package))
    lock = {"left-pad": {"version": "1.3.0"}}
    packages = {"": package, **{f"node_modules/{name}": one for name, one in lock.items()}}
    document = {"name": "a", "version": "1.0.0", "lockfileVersion": 3, "packages": packages}
    (project / "package-lock.json").write_text(json.dumps(document))
    told = run(project, "npm", "audit", "--json", "--registry=http://127.0.0.1:9",
               "--fetch-retries=0")  # fmt: skip
    with pytest.raises(ReportError, match=r"npm audit failed: .*(ECONNREFUSED|127\.0\.0\.1)"):
        parse_report(BytesIO(told.encode()), "npm-audit")
