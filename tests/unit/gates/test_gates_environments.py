"""Where a gate blocks, and where it only warns."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipline.gates import GateContext, GateEnvironment, GatesSection, TestsGate, run_gates
from shipline.globs import Glob

from judging import NOW  # isort: skip

FAILED = '<testsuites><testcase name="a"><failure/></testcase></testsuites>'
BLOCKS_IN = (Glob("staging"), Glob("prod*"))


@pytest.mark.parametrize(
    ("environment", "code"), [("dev", 0), ("staging", 9), ("production", 9), ("stag", 0), ("", 9)]
)
def test_a_gate_blocks_only_in_its_environments(
    tmp_path: Path, environment: str, code: int
) -> None:
    (tmp_path / "junit.xml").write_text(FAILED)
    context = GateContext(NOW, environment=environment)
    for section in (
        GatesSection(tests=TestsGate(reports="junit.xml"), blocks_in=BLOCKS_IN),
        GatesSection(tests=TestsGate(reports="junit.xml", blocks_in=BLOCKS_IN)),
    ):
        found = run_gates(section, context, GateEnvironment(tmp_path))
        (verdict,) = found
        assert found.exit_code == code
        assert (verdict.outcome == "waived") == (code == 0)
        assert ("does not block in" in verdict.reason) == (code == 0)


def test_doubt_is_let_through_with_its_reason_too(tmp_path: Path) -> None:
    section = GatesSection(tests=TestsGate(reports="junit.xml"), blocks_in=BLOCKS_IN)
    found = run_gates(section, GateContext(NOW, environment="dev"), GateEnvironment(tmp_path))
    (verdict,) = found
    assert (found.exit_code, verdict.outcome) == (0, "waived")
    assert "it does not block in dev" in verdict.reason
