"""The list of runs: which are shown, how each ended, and whether they get slower.

Everything here follows from the records of the runs; their events are not read.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress

from msgspec import Struct

from shipline.errors import ShiplineError
from shipline.history import RunHistory, RunState, RunSummary
from shipline.history.recorder import RECORD
from shipline.observe import clean
from shipline.ui.lanes import exit_code
from shipline.values import replace

PAGE = 100  # runs
TREND = 60  # runs
_KEPT = 20_000  # summaries

VERDICTS: Mapping[RunState, tuple[str, str]] = {
    RunState.WAITING: ("wait", "waiting"),
    RunState.RUNNING: ("run", "running"),
    RunState.PASSED: ("ok", "passed"),
    RunState.FAILED: ("bad", "failed"),
    RunState.TOLERATED: ("warn", "passed with failures"),
    RunState.PENDING: ("wait", "waits"),
    RunState.SKIPPED: ("reused", "nothing to do"),
    RunState.CANCELLED: ("", "stopped"),
    RunState.INTERRUPTED: ("warn", "interrupted"),
}
"""Kind of the chip, and the word, by state."""


class RunFilter(Struct, frozen=True):
    """Which runs are wanted; what is empty allows all. `before` is the id of the run after which
    the page goes on.
    """

    text: str = ""
    state: str = ""
    kind: str = ""
    branch: str = ""
    before: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> RunFilter:
        """The filter of a query string; unknown values match nothing."""
        names = {"q": "text", **{one: one for one in ("state", "kind", "branch", "before")}}
        found = {names[key]: value.strip() for key, value in query.items() if key in names}
        return cls(**found)

    @property
    def wants_all(self) -> bool:
        return not (self.text or self.state or self.kind or self.branch)

    def matches(self, run: RunSummary) -> bool:
        """Whether a run has the state, the kind, the branch, and all words of the text in what
        the list shows of it.
        """
        fields = (run.id, run.name, run.commit, run.branch, run.digest, run.root, run.error)
        shown = " ".join((*fields, *run.names, *run.platforms)).lower()
        return (
            self.state in ("", run.state.value)
            and self.kind in ("", run.kind)
            and self.branch in ("", run.branch)
            and all(word in shown for word in self.text.lower().split())
        )


class RunTrend(Struct, frozen=True):
    """Durations in seconds of the latest runs of one thing, oldest first, each with whether it
    failed. `usual_s` is the median of those that passed, None if none did.
    """

    name: str
    runs: tuple[tuple[float, bool], ...]
    usual_s: float | None

    @property
    def failed(self) -> int:
        return sum(failed for _, failed in self.runs)


class RunPage(Struct, frozen=True):
    """Runs for one page, the newest first; `more` is the last one's id if there are others."""

    runs: tuple[RunSummary, ...]
    more: str
    trend: RunTrend | None


class RunIndex:
    """The summaries of a history, read again only where a record changed: a list that is filtered
    looks at all of them. Safe to use from any thread.
    """

    def __init__(self, history: RunHistory) -> None:
        self.history = history
        self._known: dict[str, tuple[int, RunSummary]] = {}

    def newest(self, before: str = "") -> Iterator[RunSummary]:
        """The newest first; from the one that is older than `before`."""
        for run in self.history.ids():
            if not before or run < before:
                with suppress(ShiplineError, OSError):
                    yield self._summary(run)

    def _summary(self, run: str) -> RunSummary:
        changed = os.stat(self.history.root / run / RECORD).st_mtime_ns
        known = self._known.get(run)
        if known is not None and known[0] == changed:
            return known[1]
        found = cleaned(self.history.summary(run))
        if found.finished:
            while len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)), None)
            self._known[run] = changed, found
        return found


def run_page(index: RunIndex, wanted: RunFilter) -> RunPage:
    """A page of the runs that are wanted; the trend is that of what the newest of them ran."""
    found: list[RunSummary] = []
    for run in index.newest(wanted.before):
        if wanted.matches(run):
            if len(found) == PAGE:
                return RunPage(tuple(found), found[-1].id, _trend_of(index, found[0]))
            found.append(run)
    return RunPage(tuple(found), "", _trend_of(index, found[0]) if found else None)


def _trend_of(index: RunIndex, latest: RunSummary) -> RunTrend | None:
    return trend(latest.name, [latest, *earlier(index, latest, TREND - 1)])


def earlier(index: RunIndex, run: RunSummary, count: int) -> list[RunSummary]:
    """Runs of the same thing before a run, the newest first."""
    found: list[RunSummary] = []
    for one in index.newest(run.id):
        if one.is_same_thing(run):
            found.append(one)
            if len(found) == count:
                break
    return found


def trend(name: str, runs: list[RunSummary]) -> RunTrend | None:
    """The trend of runs, the newest of which is first; None for fewer than two that ended."""
    over = [run for run in reversed(runs) if run.finished]
    if len(over) < 2:
        return None
    drawn = tuple((run.elapsed_s, run.state is RunState.FAILED) for run in over)
    return RunTrend(name, drawn, usual_s(over))


def usual_s(runs: list[RunSummary]) -> float | None:
    """How long runs that passed usually take, in seconds; None if there are none."""
    passed = [run.elapsed_s for run in runs if run.state is RunState.PASSED]
    return statistics.median(passed) if passed else None


def lines_of(text: str) -> str:
    """Text of several lines without control characters."""
    return "\n".join(map(clean, text.split("\n")))


def cleaned(run: RunSummary) -> RunSummary:
    """The record without control characters: paths and branches may have any."""
    return replace(
        run,
        name=clean(run.name),
        root=clean(run.root),
        commit=clean(run.commit),
        branch=clean(run.branch),
        digest=clean(run.digest),
        names=tuple(map(clean, run.names)),
        platforms=tuple(map(clean, run.platforms)),
        error=lines_of(run.error),
    )


def brief(error: str) -> str:
    """What a list says of an error: the exit code of a command, else the first line."""
    code = exit_code(error)
    return f"exit code {code}" if code else error.partition("\n")[0]
