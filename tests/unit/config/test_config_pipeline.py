"""The sections together: what one says of another has to be there."""

from __future__ import annotations

import pytest

from shipline.config import InvalidConfig, loads


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("{run: x, reports: {test: a.xml}}", "steps.a.reports: 'test' is no gate"),
        ("{run: x, reports: [../a]}", "steps.a.reports: '../a' leads out of the project"),
        ("{run: x, working-directory: /}", "steps.a.working-directory: '/' leads out"),
        ("{run: x, pass-env: [A-B]}", "steps.a.pass-env: 'A-B' is not the name of a variable"),
    ],
)
def test_a_step_that_cannot_be_is_told_at_its_key(step: str, problem: str) -> None:
    text = f"{{gates: {{tests: {{}}}}, steps: {{a: {step}}}}}"
    with pytest.raises(InvalidConfig) as raised:
        loads(text.encode(), "f", {})
    assert problem in str(raised.value)
