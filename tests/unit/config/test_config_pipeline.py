"""The sections together: what one says of another has to be there."""

from __future__ import annotations

import pytest

from shipline.config import InvalidConfig, loads
from shipline.gates import CoverageGate, GatesSection, TestsGate
from shipline.ship.reports import with_implied_gates


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("{run: x, reports: {test: a.xml}}", "steps.a.reports: 'test' is not a gate"),
        ("{run: x, reports: [../a]}", "steps.a.reports: '../a' is outside the project"),
        ("{run: x, working-directory: /}", "steps.a.working-directory: '/' is outside"),
        ("{run: x, pass-env: [A-B]}", "steps.a.pass-env: 'A-B' is not the name of a variable"),
    ],
)
def test_a_step_that_cannot_be_is_told_at_its_key(step: str, problem: str) -> None:
    text = f"{{gates: {{tests: {{}}}}, steps: {{a: {step}}}}}"
    with pytest.raises(InvalidConfig) as raised:
        loads(text.encode(), "f", {})
    assert problem in str(raised.value)


def test_reports_for_a_gate_that_nobody_configured_make_the_usual_one() -> None:
    text = "{gates: {coverage: {min: 70}}, steps: {a: {run: x, reports: {coverage: c, tests: t}}}}"
    config = loads(text.encode(), "f", {})
    found = with_implied_gates(config.gates, config.pipeline)
    assert found == GatesSection(coverage=CoverageGate(min=70), tests=TestsGate())
    alone = loads(b"{steps: {a: {run: x, reports: {tests: t}}}}", "f", {})
    assert with_implied_gates(alone.gates, alone.pipeline) == GatesSection(tests=TestsGate())
    assert (
        with_implied_gates(None, loads(b"{steps: {a: {run: x, reports: [t]}}}", "f", {}).pipeline)
        is None
    )


def test_reports_for_one_of_several_gates_of_a_kind_name_it() -> None:
    gates = "gates: {tests: [{name: unit}, {name: slow}]}"
    loads(f"{{{gates}, steps: {{a: {{run: x, reports: {{unit: t}}}}}}}}".encode(), "f", {})
    with pytest.raises(InvalidConfig, match="'tests' is not a gate"):
        loads(f"{{{gates}, steps: {{a: {{run: x, reports: {{tests: t}}}}}}}}".encode(), "f", {})
