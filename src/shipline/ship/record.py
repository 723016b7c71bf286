"""What is remembered of a run: frozen values, and their JSON form (`run.json`, version 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from shipline.errors import ContentError

VERSION = 1


class State(StrEnum):
    """How far a run or one of its steps is."""

    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    TOLERATED = "tolerated"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


DONE = (State.PASSED, State.TOLERATED)
"""States whose result stands: the step is not repeated while its key stays."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a run. Times are Unix time in seconds, 0 where there is none.

    `reports` are digests by path; `results` are what later steps use: digests, tags, verdicts.
    """

    name: str
    kind: str
    key: str
    state: State = State.WAITING
    started: float = 0.0
    finished: float = 0.0
    attempts: int = 0
    reason: str = ""
    reports: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)

    @property
    def elapsed_s(self) -> float:
        return max(self.finished - self.started, 0.0)


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its record has it."""

    id: str
    root: str
    file: str
    image: str
    commit: str
    tree: str
    branch: str
    dirty: bool
    started: float
    steps: tuple[StepRecord, ...]
    state: State = State.RUNNING
    finished: float = 0.0
    resumed: int = 0
    error: str = ""
    exit_code: int = 0

    def step(self, name: str) -> StepRecord | None:
        return next((one for one in self.steps if one.name == name), None)

    def having(self, step: StepRecord) -> Self:
        """The run with this record in the place of the one of the same name."""
        return replace(
            self, steps=tuple(step if one.name == step.name else one for one in self.steps)
        )

    @property
    def digest(self) -> str:
        """The digest of the image, as soon as there is one."""
        build = self.step("build")
        return str(build.results.get("digest", "")) if build else ""

    @property
    def tags(self) -> tuple[str, ...]:
        publish = self.step("publish")
        return tuple(publish.results.get("names", ())) if publish else ()

    @property
    def version(self) -> str:
        """The version that was reserved, or that the commit had; empty where it has none."""
        found = (self.step(name) for name in ("reserve", "publish"))
        versions = (str(one.results.get("version", "")) for one in found if one)
        return next(filter(None, versions), "")

    def interrupted(self) -> Self:
        """The run as it is after its process died: what was running was interrupted."""
        if self.state is not State.RUNNING:
            return self
        steps = tuple(
            replace(one, state=State.INTERRUPTED) if one.state is State.RUNNING else one
            for one in self.steps
        )
        return replace(self, state=State.INTERRUPTED, steps=steps)

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Raises ContentError for what is no record of this version."""
        try:
            found = dict(document)
            if found.pop("version") != VERSION:
                raise ContentError("the record of the run is of another version of shipline")
            steps = tuple(
                StepRecord(**{**step, "state": State(step["state"])}) for step in found.pop("steps")
            )
            return cls(**{**found, "state": State(found["state"]), "steps": steps})
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ContentError(f"the record of the run is damaged: {error}") from None
