"""Shortcuts for tests of judgements: documents in, a verdict out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from shipline.gates import Baseline, GateContext, ReportFile, Verdict, Waiver, Waivers, judge
from shipline.gates.reports import Report, parse_report
from shipline.gates.section import ReportGate
from shipline.gates.statements import summary
from shipline.gates.verdict import Verdicts
from shipline.git import ChangedLines
from shipline.units import Day
from shipline.values import replace

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
CONTEXT = GateContext(NOW)


def evidence(document: bytes | dict[str, Any] | Report, **more: Any) -> ReportFile:
    """A report file, written an hour ago where it does not tell itself."""
    if isinstance(document, dict):
        document = json.dumps(document).encode()
    if isinstance(document, bytes):
        document = parse_report(BytesIO(document))
    made = document.created or datetime(2026, 1, 1, 11, tzinfo=UTC)
    return replace(ReportFile("report", document, written=made), **more)


def verdict_of(
    rules: ReportGate,
    *documents: bytes | dict[str, Any] | Report | ReportFile,
    context: GateContext = CONTEXT,
    waivers: Sequence[Waiver] = (),
    vex: Sequence[dict[str, Any]] = (),
    gate: str = "gate",
) -> Verdict:
    """The verdict on these reports."""
    found = [one if isinstance(one, ReportFile) else evidence(one) for one in documents]
    return judge(
        gate, "kind", rules, found, Waivers(waivers, context), vex=[evidence(one) for one in vex]
    )


def waiver(**more: Any) -> Waiver:
    """A waiver that holds until the end of the month."""
    until = Day.parse(more.pop("until", "2026-01-31"))
    return Waiver(until=until, **{"owner": "team", "reason": "known", **more})


def baseline_after(verdict: Verdict) -> Baseline:
    """What a later run reads of this one."""
    return Baseline.parse(json.dumps(summary(Verdicts((verdict,), NOW))).encode())


def changed(*lines: int, path: str = "app/a.py", files: Sequence[str] = ()) -> ChangedLines:
    """A change of these lines of one file."""
    return ChangedLines(
        {path: tuple(range(line, line + 1) for line in lines)}, frozenset({path, *files})
    )


def checks(verdict: Verdict) -> dict[str, str]:
    """Outcomes by the name of the check."""
    return {one.name: one.outcome.value for one in verdict.checks}


def cobertura(**files: Sequence[int]) -> bytes:
    """A report: hits of the lines from 1 on, by file; `_` in a name is `/`."""
    classes = "".join(
        f'<class filename="{name.replace("_", "/")}.py"><lines>'
        + "".join(f'<line number="{line}" hits="{hit}"/>' for line, hit in enumerate(hits, 1))
        + "</lines></class>"
        for name, hits in files.items()
    )
    return f'<coverage line-rate="1"><packages>{classes}</packages></coverage>'.encode()
