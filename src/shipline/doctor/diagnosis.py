"""An examination and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from shipline.errors import ShiplineError


class Condition(StrEnum):
    """Whether something works; `REMARK`: it does, but less well than it could."""

    OK = "ok"
    REMARK = "remark"
    FAILED = "failed"


class Remark(Struct, frozen=True):
    """What works less well than it could, and how to improve it."""

    detail: str
    cure: str


class Examination(Struct, frozen=True):
    """`examine` returns what it found, or a Remark; it raises ShiplineError for what does not work,
    and returns an empty text where there is nothing to say.
    """

    area: str
    name: str
    examine: Callable[[], str | Remark]


class Diagnosis(Struct, frozen=True):
    """What an examination found. `cure` is empty if nothing has to be done, `exit_code` is that of
    commands which fail for this reason.
    """

    area: str
    name: str
    condition: Condition
    detail: str
    cure: str = ""
    exit_code: int = 0


def diagnose(examination: Examination) -> Diagnosis | None:
    """Examine; None if there is nothing to say."""
    area, name = examination.area, examination.name
    try:
        found = examination.examine()
    except ShiplineError as error:
        notes = getattr(error, "__notes__", ())
        detail = "\n".join([error.message, *notes])
        return Diagnosis(area, name, Condition.FAILED, detail, error.hint, error.exit_code)
    if isinstance(found, Remark):
        return Diagnosis(area, name, Condition.REMARK, found.detail, found.cure)
    return Diagnosis(area, name, Condition.OK, found) if found else None
