"""Filters of `shipline history ls`: `status=error`, `duration>1m`. Source: docker/buildx,
commands/history.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from shipline.errors import InvalidFlag
from shipline.history import RunState, RunSummary
from shipline.units import Duration

_STATUS = {RunState.PASSED: "completed", RunState.FAILED: "error", RunState.CANCELLED: "canceled"}
"""The words of buildx; other states have their own."""
_STATES = tuple(_STATUS.get(state, state.value) for state in RunState)


def status_of(run: RunSummary) -> str:
    """The status in the words of buildx's filters."""
    return _STATUS.get(run.state, run.state.value)


_FILTER = re.compile(r"(\w+)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_TEXTS: dict[str, Callable[[RunSummary], str]] = {
    "ref": lambda run: f"{run.id} {run.ref}",
    "repository": lambda run: run.source,
    "status": status_of,
    "kind": lambda run: run.kind,
}
_EXACT = {"status", "kind"}
_NUMBERS: dict[str, Callable[[RunSummary], float]] = {
    "startedAt": lambda run: run.started,
    "completedAt": lambda run: run.finished,
    "duration": lambda run: run.elapsed_s,
}
_FILTER_HINT = (
    f"filters are {', '.join(_TEXTS)} with = or !=, and {', '.join(_NUMBERS)} with <, <=, > or >="
)


def parse_filter(text: str) -> Callable[[RunSummary], bool]:
    """A filter. Raises UsageError."""
    found = _FILTER.fullmatch(text)
    if found is None:
        raise InvalidFlag(f"--filter: cannot read {text!r}", hint=_FILTER_HINT)
    name, operator, value = found.groups()
    if name in _TEXTS and operator in ("=", "!="):
        if name == "status" and value not in _STATES:
            problem = f"no run is ever {value!r}"
            hint = f"states are {', '.join(_STATES)}"
            raise InvalidFlag(f"--filter {text!r}: {problem}", hint=hint)
        return _text_test(name, operator, value)
    if name in _NUMBERS and operator not in ("=", "!="):
        return _number_test(name, operator, value)
    problem = (
        f"{name} does not go with {operator}"
        if name in _TEXTS or name in _NUMBERS
        else (f"there is no {name!r}")
    )
    raise InvalidFlag(f"--filter {text!r}: {problem}", hint=_FILTER_HINT)


def _text_test(name: str, operator: str, value: str) -> Callable[[RunSummary], bool]:
    def holds(run: RunSummary) -> bool:
        found = _TEXTS[name](run)
        same = found == value if name in _EXACT else value in found
        return same is (operator == "=")

    return holds


def _number_test(name: str, operator: str, value: str) -> Callable[[RunSummary], bool]:
    limit = _seconds(name, value)

    def holds(run: RunSummary) -> bool:
        found = _NUMBERS[name](run)
        if found == limit:
            return operator.endswith("=")
        return (found < limit) is operator.startswith("<")

    return holds


def _seconds(name: str, value: str) -> float:
    """A duration; of a time that of RFC 3339, or so long ago."""
    try:
        span = Duration.parse(value).seconds
        return span if name == "duration" else time.time() - span
    except ValueError:
        if name == "duration":
            raise InvalidFlag(f"--filter: {value!r} is not a duration", hint="write 90s") from None
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        hint = "write 2026-11-30T12:00:00Z, or 2h for so long ago"
        raise InvalidFlag(f"--filter: {value!r} is not a time", hint=hint) from None


def is_local() -> Callable[[RunSummary], bool]:
    """Runs of the repository, or else of the directory, in which this is."""
    from shipline.cli.environment import git_facts

    source = git_facts(os.environ, ".", None).get("source", "")
    here = Path.cwd()

    def holds(run: RunSummary) -> bool:
        if source and run.source == source:
            return True
        return bool(run.root) and (Path(run.root) == here or here in Path(run.root).parents)

    return holds
