"""What changes on the page of a run that goes on: the smallest parts that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shipline.history import RunState
from shipline.pages import Frame, render_part
from shipline.ui.app import PageChange
from shipline.ui.run_page import RunView

Part = tuple[str, str, dict[str, Any]]
"""The id of an element, and the macro that makes it with its arguments."""
Logs = Mapping[int, str]


def changed_parts(before: RunView, now: RunView, old: Logs, logs: Logs) -> Iterator[Part]:
    """What differs between two moments of a run, `old` and `logs` being where its logs are then."""
    if now.verdict != before.verdict:
        yield "verdict", "verdict", {"view": now}
        yield "outcome", "outcome", {"view": now, "logs": logs}
    if now.figures != before.figures:
        yield "figures", "figures", {"view": now}
    over = before.run.state is RunState.RUNNING and now.run.state is not RunState.RUNNING
    if over or _shape(before) != _shape(now):
        yield "timeline", "timeline", {"view": now, "logs": logs, "all": ""}
        return
    end = now.lanes.end_s
    for was, group in zip(before.lanes.groups, now.lanes.groups, strict=True):
        if [row.span for row in was.rows] != [row.span for row in group.rows]:
            yield group.id, "group", {"group": group, "end": end, "logs": logs}
            continue
        for one, row in zip(was.rows, group.rows, strict=True):
            if row != one or old.get(row.span) != logs.get(row.span):
                values = {"row": row, "end": end, "log": logs.get(row.span)}
                yield f"step-{row.span}", "row", values


def changes(
    before: RunView, now: RunView, old: Logs, logs: Logs, frame: Frame
) -> Iterator[PageChange]:
    """What differs, as elements of the page."""
    for id, macro, values in changed_parts(before, now, old, logs):
        yield PageChange(id, render_part("run_parts.html", macro, values, frame=frame))


def _shape(view: RunView) -> object:
    """What the table has in common for all its rows."""
    lanes = view.lanes
    return lanes.end_s, lanes.legend, [group.id for group in lanes.groups]
