"""The page of a run as one file, for the artefacts of a CI job: no script, nothing to load."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from shipline.history import RunDetail, RunSummary
from shipline.pages import Frame, render
from shipline.ui.logs import tail
from shipline.ui.run_page import RanAgain, run_view
from shipline.ui.runs import run_values

_LINES = 1000  # of each log


def report_html(
    detail: RunDetail,
    earlier: Sequence[RunSummary] = (),
    before: RunSummary | None = None,
    again: Sequence[RanAgain] = (),
) -> bytes:
    """The page with the ends of all logs; `earlier` are runs of the same thing, and `again` is what
    ran again since `before`.
    """
    now = time.time()
    outputs = [
        (step, tail(detail.log(step.span), _LINES))
        for step in detail.steps
        if step.span in detail.output
    ]
    values = run_values(detail, run_view(detail, now, earlier), inside=True)
    frame = Frame(socket.gethostname(), now, standalone=True)
    values |= {"outputs": outputs, "before": before, "again": again}
    return render("run.html", frame=frame, **values)
