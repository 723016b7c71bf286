"""Values: msgspec's Structs, and dataclasses where a field needs what Structs do not have."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, TypeVar

from msgspec import Struct, structs

T = TypeVar("T")


def replace(value: T, /, **changes: Any) -> T:
    """A copy of `value` with `changes`, as `copy.replace` of Python 3.13 makes it.

    Raises TypeError for a field that `value` does not have.
    """
    if isinstance(value, Struct):
        return structs.replace(value, **changes)  # noqa: TID251
    return dataclasses.replace(value, **changes)  # type: ignore[type-var] # noqa: TID251


def doc(text: str, *, interpolate: bool = False) -> dict[str, object]:
    """The metadata of a field of shipline.yaml: what `shipline config reference` says of it, and
    whether its value may contain variables.
    """
    return {"doc": text, "interpolate": interpolate}


class Redacted(Struct, frozen=True):
    """A value whose `repr` leaves out the fields in `hidden`: secrets, and what is long."""

    hidden: ClassVar[frozenset[str]]

    def __repr__(self) -> str:
        shown = [name for name in self.__struct_fields__ if name not in self.hidden]
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__name__}({fields})"
