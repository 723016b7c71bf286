"""Which gates stop a run, and which are left to the promotion."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shipline.config import loads
from shipline.errors import ShiplineError
from shipline.events import Step
from shipline.ship.plan import ProjectConfig, StepContext, StepOutcome
from shipline.ship.steps.gates import GateVerdicts, _run
from shipline.tags import TagsSection

FAILED = '<testsuites><testcase name="a"><failure/></testcase></testsuites>'
CHAIN = """\
environments:
  staging: {gitops: {repository: /gitops, updates: [{kustomization: staging}]}}
  production:
    after: staging
    gitops: {repository: /gitops, updates: [{kustomization: production}]}
"""


@dataclass
class _Span:
    warnings: list[str] = field(default_factory=list)
    shown: bytes = b""

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def output(self, content: bytes) -> None:
        self.shown += content

    def note(self, **facts: object) -> None:
        pass


def _judged(root: Path, blocks_in: str, chain: str = CHAIN) -> tuple[StepOutcome, _Span]:
    where = f", blocks-in: [{blocks_in}]" if blocks_in else ""
    text = f"image: r.example/app\ngates: {{tests: {{reports: junit.xml{where}}}}}\n{chain}"
    config = loads(text.encode(), "shipline.yaml", {})
    (root / "junit.xml").write_text(FAILED)
    project = ProjectConfig(
        root,
        "shipline.yaml",
        config.pipeline,
        TagsSection(),
        config.gates,
        config.environments or {},
    )
    context: Any = SimpleNamespace(
        project=project,
        run=SimpleNamespace(result=lambda *_: None, step=lambda _: SimpleNamespace(result=None)),
        inputs=SimpleNamespace(work_tree=SimpleNamespace(commit="c" * 40, committed=0)),
        environment=SimpleNamespace(clock=lambda: 1e9, environ={}, event=SimpleNamespace(base="")),
    )
    span = _Span()
    return _run(cast(StepContext, context), cast(Step, span)), span


def test_a_gate_of_a_later_environment_fails_without_ending_the_run(tmp_path: Path) -> None:
    outcome, span = _judged(tmp_path, '"prod*"')
    assert isinstance(outcome.result, GateVerdicts)
    (line,) = outcome.result.verdicts
    assert line.startswith("tests: fail: ") and line.endswith("; blocks in production")
    assert outcome.reason == "tests fail (blocks in production)"
    assert span.warnings == [line] and b"may go on" in span.shown
    ((_, summary), (_, result)) = outcome.result.statements[""]
    (gate,) = summary["gates"]
    assert (gate["outcome"], gate["blocks"], summary["outcome"]) == ("fail", True, "fail")
    assert result["result"] == "FAILED"


@pytest.mark.parametrize(
    ("blocks_in", "chain"),
    [("", CHAIN), ("staging, production", CHAIN), ("elsewhere", CHAIN), ("production", "")],
)
def test_all_other_gates_stop_the_run(blocks_in: str, chain: str, tmp_path: Path) -> None:
    with pytest.raises(ShiplineError, match="the gate tests refused"):
        _judged(tmp_path, blocks_in, chain)
