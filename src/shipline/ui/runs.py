"""The pages about runs: the list, a run, its logs, and what changes while it goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

from shipline.errors import NotFound, ShiplineError
from shipline.history import FileTables, RunComparison, RunDetail, RunHistory, RunState, StepView
from shipline.observe import clean
from shipline.pages import render_part
from shipline.ui.app import PageChange, PageRequest, PageResponse, PageRoute
from shipline.ui.live import changes
from shipline.ui.logs import PAGE, page_of, tail, text
from shipline.ui.run_list import (
    TREND,
    VERDICTS,
    RunFilter,
    RunIndex,
    brief,
    cleaned,
    earlier,
    lines_of,
    run_page,
)
from shipline.ui.run_page import RunView, ran_again, run_view, title_of

_TAIL = 200  # lines of each log on the page of all
_POLL_S, _LIST_POLL_S = 0.5, 1.0
_STATES = tuple((state.value, word) for state, (_, word) in VERDICTS.items())
_KINDS = ("build", "bake", "ship")


@cache
def _index(home: Path) -> RunIndex:
    return RunIndex(RunHistory(home))


def run_list(request: PageRequest) -> PageResponse:
    """The list of runs."""
    wanted = RunFilter.of(request.query)
    found = run_page(_index(request.workspace.home), wanted)
    going = any(run.state is RunState.RUNNING for run in found.runs)
    return request.page(
        "runs.html",
        live=request.here("/events") if going else "",
        wanted=wanted,
        found=found,
        rows=[(run, VERDICTS[run.state], brief(run.error)) for run in found.runs],
        states=(("", "all"), *_STATES),
        kinds=(("", "all"), *((kind, kind) for kind in _KINDS)),
        next=request.here(before=found.more) if found.more else "",
    )


def run(request: PageRequest) -> PageResponse:
    """A run with its timeline."""
    detail = _read(request)
    view = _view(request, detail)
    going = view.run.state is RunState.RUNNING
    live = request.here("/events") if going else ""
    before = compared(RunHistory(request.workspace.home), detail, request.workspace.home)
    values = {**run_values(detail, view), "outputs": (), **before}
    return request.page("run.html", live=live, **values)


def compared(history: RunHistory, detail: RunDetail, home: Path) -> dict[str, Any]:
    """The run before of the same thing, None if there is none that can be read, and what ran again
    since.
    """
    previous = history.previous(detail.summary)
    try:
        before = None if previous is None else history.read(previous.id)
    except ShiplineError:  # it was deleted, or is damaged
        before = None
    if before is None:
        return {"before": None, "again": ()}
    comparison = RunComparison(detail, before, FileTables(home))
    return {"before": before.summary, "again": list(ran_again(comparison))}


def run_values(detail: RunDetail, view: RunView, *, inside: bool = False) -> dict[str, Any]:
    """What the template of a run needs. Links to logs lead to places `inside` of the page, or to
    pages of their own.
    """
    place = "#log-{}" if inside else f"/runs/{view.run.id}/logs/{{}}"
    left_out = any(group.left_out for group in view.lanes.groups)
    return {
        "view": view,
        "logs": {step.span: place.format(step.span) for step, _ in view.logs},
        "all": f"/runs/{view.run.id}?steps=all" if left_out and not inside else "",
        "dockerfile": [clean(line) for line in detail.dockerfile().splitlines()],
    }


def run_logs(request: PageRequest) -> PageResponse:
    """The ends of all logs of a run, in the order in which the steps began."""
    detail = _read(request)
    run = cleaned(detail.summary)
    written = [step for step in detail.steps if step.span in detail.output]
    return request.page(
        "run_logs.html",
        run=run,
        title=title_of(run),
        verdict=VERDICTS[run.state],
        outputs=[(step, tail(detail.log(step.span), _TAIL)) for step in written],
    )


def run_log(request: PageRequest) -> PageResponse:
    """The log of a step, a thousand lines at a time."""
    detail, step = _step(request)
    first = request.query.get("from", "1")
    start = int(first) if first.isdecimal() and len(first) < 12 else 1
    return request.page(
        "run_log.html",
        run=detail.summary,
        step=step,
        error=lines_of(step.error),
        page=page_of(detail.log(step.span), start),
        size=PAGE,
        here=request.path,
    )


def run_text(request: PageRequest) -> PageResponse:
    """The log of a step as it was written, for other programs."""
    detail, step = _step(request)
    return PageResponse(text(detail.log(step.span)), media_type="text/plain; charset=utf-8")


async def follow_run(request: PageRequest) -> AsyncIterator[PageChange]:
    """What changes on the page of a run until it ends, or is deleted."""
    history = RunHistory(request.workspace.home)
    before: tuple[RunView, dict[str, Any]] | None = None
    going = True
    while going:
        began = time.monotonic()
        going = await asyncio.to_thread(history.alive, request.parts["run"])
        try:
            now = await asyncio.to_thread(_shown, request)
        except ShiplineError:
            return
        if before is not None:
            old, logs = before[1]["logs"], now[1]["logs"]
            made = changes(before[0], now[0], old, logs, request.frame())
            for change in await asyncio.to_thread(list, made):
                yield change
        before = now
        await asyncio.sleep(max(_POLL_S, 4 * (time.monotonic() - began)) if going else 0)


async def follow_list(request: PageRequest) -> AsyncIterator[PageChange]:
    """The rows of runs that go on, until they have ended."""
    index = _index(request.workspace.home)
    page = await asyncio.to_thread(run_page, index, RunFilter.of(request.query))
    going = {run.id: run for run in page.runs if run.state is RunState.RUNNING}
    while going:
        await asyncio.sleep(_LIST_POLL_S)
        for id, before in list(going.items()):
            try:
                run = await asyncio.to_thread(index.history.summary, id)
            except ShiplineError:
                del going[id]
                continue
            going[id] = run
            if run.state is not RunState.RUNNING:
                del going[id]
            if run != before:
                values = {"run": run, "verdict": VERDICTS[run.state], "error": brief(run.error)}
                html = render_part("run_parts.html", "list_row", values, frame=request.frame())
                yield PageChange(f"run-{id}", html)


def _shown(request: PageRequest) -> tuple[RunView, dict[str, Any]]:
    detail = _read(request)
    view = _view(request, detail)
    return view, run_values(detail, view)


def _read(request: PageRequest) -> RunDetail:
    history = RunHistory(request.workspace.home)
    return history.read(request.parts["run"])


def _view(request: PageRequest, detail: RunDetail) -> RunView:
    index = _index(request.workspace.home)
    before = earlier(index, detail.summary, TREND)
    everything = request.query.get("steps") == "all"
    return run_view(detail, time.time(), before, everything=everything)


def _step(request: PageRequest) -> tuple[RunDetail, StepView]:
    detail = _read(request)
    span = request.parts["span"]
    step = detail.step(int(span)) if span.isdecimal() and len(span) < 12 else None
    if step is None:
        raise NotFound(f"run {detail.summary.id} has no step {span}", code="run-unreadable")
    return detail, step


RUN_PAGES = (
    PageRoute("/runs", show=run_list),
    PageRoute("/runs/events", follow=follow_list),
    PageRoute("/runs/{run}", show=run),
    PageRoute("/runs/{run}/events", follow=follow_run),
    PageRoute("/runs/{run}/logs", show=run_logs),
    PageRoute("/runs/{run}/logs/{span}", show=run_log),
    PageRoute("/runs/{run}/logs/{span}/text", show=run_text),
)
