"""The record of a run: frozen values, and their JSON form (`run.json`, version 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import date
from typing import Any, Protocol, Self, TypeVar

from msgspec import Struct, structs

from shipline.errors import ContentError
from shipline.history import RunState
from shipline.values import replace

VERSION = 1
KEYS = 2
"""How the keys of steps are made; a record that says nothing has those of 1, which fit no step."""


DONE = (RunState.PASSED, RunState.TOLERATED)
"""States whose result is kept: the step is not repeated while its key is the same."""


class StepResult(Protocol):
    """The result of a step for later ones; each kind of step has its own type."""

    def to_json(self) -> dict[str, Any]: ...


Decode = Callable[[str, Mapping[str, Any]], StepResult | None]
"""The result of a step of a kind from its JSON form. Raises ShiplineError, KeyError, TypeError or
ValueError.
"""
R = TypeVar("R", bound=StepResult)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step of a run. Times are Unix time in seconds, 0 if unset; `reports` are digests by
    path.
    """

    name: str
    kind: str
    key: str
    state: RunState = RunState.WAITING
    started: float = 0.0
    finished: float = 0.0
    attempts: int = 0
    reason: str = ""
    reports: Mapping[str, str] = field(default_factory=dict)
    result: StepResult | None = None

    @property
    def elapsed_s(self) -> float:
        return max(self.finished - self.started, 0.0)

    def to_json(self) -> dict[str, Any]:
        document = _fields(self)
        result = document.pop("result")
        return {**document, "results": result.to_json() if result else {}}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], decode: Decode) -> Self:
        known = _known(cls, document)
        results = document["results"]
        result = decode(known["kind"], results) if results else None
        return cls(**{**known, "state": RunState(known["state"]), "result": result})


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The record of a run."""

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
    state: RunState = RunState.RUNNING
    finished: float = 0.0
    resumed: int = 0
    error: str = ""
    exit_code: int = 0
    keys: int = KEYS
    images: Mapping[str, str] = field(default_factory=dict)
    """The repositories of several images, by target."""

    @property
    def repositories(self) -> Mapping[str, str]:
        """The repositories of all images, by target; a single one has the empty name."""
        return self.images or {"": self.image}

    @property
    def shown_image(self) -> str:
        return ", ".join(self.images.values()) or self.image

    def step(self, name: str) -> StepRecord | None:
        return next((step for step in self.steps if step.name == name), None)

    def result(self, name: str, kind: type[R]) -> R | None:
        """The result of the step of this name, if it is of this type."""
        step = self.step(name)
        return step.result if step is not None and isinstance(step.result, kind) else None

    def with_step(self, step: StepRecord) -> Self:
        """The run with this step in place of the one of the same name."""
        return replace(
            self, steps=tuple(step if known.name == step.name else known for known in self.steps)
        )

    def interrupted(self) -> Self:
        """The run after its process died: running steps are interrupted."""
        if self.state is not RunState.RUNNING:
            return self
        steps = tuple(
            replace(step, state=RunState.INTERRUPTED) if step.state is RunState.RUNNING else step
            for step in self.steps
        )
        return replace(self, state=RunState.INTERRUPTED, steps=steps)

    def to_json(self) -> dict[str, Any]:
        steps = [step.to_json() for step in self.steps]
        return {"version": VERSION, **_fields(self), "steps": steps}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], decode: Decode) -> Self:
        """Parse a record. Raises ContentError for anything but a record of this version."""
        try:
            if document["version"] != VERSION:
                raise ContentError(
                    "the record is of another version of shipline", code="run-unreadable"
                )
            steps = tuple(StepRecord.from_json(item, decode) for item in document["steps"])
            known = {"keys": 1, **_known(cls, document)}
            return cls(**{**known, "state": RunState(known["state"]), "steps": steps})
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ContentError(f"the record is damaged: {error}", code="run-unreadable") from None


def by_target(values: Mapping[str, T]) -> T | dict[str, T]:
    """What a document has for values by target: that of a single image as it is."""
    return values[""] if values.keys() == {""} else dict(values)


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _known(cls: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a document that the class has; later versions may have written more."""
    return {field.name: document[field.name] for field in fields(cls) if field.name in document}


def as_json(value: object) -> object:
    """A value of shipline.yaml as JSON for a key. Fields with default values are left out, so that
    later versions can add some. Raises TypeError for other values.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, tuple):
        return [as_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if is_dataclass(value):
        held = {
            field.name: (getattr(value, field.name), field)
            for field in fields(value)
            if field.compare
        }
        return {
            name: as_json(item) for name, (item, made) in held.items() if item != _default(made)
        }
    if isinstance(value, Struct):
        parts = ((item, getattr(value, item.name)) for item in structs.fields(value))
        return {item.name: as_json(part) for item, part in parts if part != item.default}
    raise TypeError(f"not a value of shipline.yaml: {type(value).__name__}")


def _default(made: Any) -> object:
    return made.default if made.default_factory is MISSING else made.default_factory()
