"""Values: msgspec's Structs, and dataclasses where a field needs what Structs do not have."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from msgspec import Struct, structs

T = TypeVar("T")


def replace(value: T, /, **changes: Any) -> T:
    """A copy of `value` with `changes`, as `copy.replace` of Python 3.13 makes it.

    Raises TypeError for a field that `value` does not have.
    """
    if isinstance(value, Struct):
        return structs.replace(value, **changes)  # noqa: TID251
    return dataclasses.replace(value, **changes)  # type: ignore[type-var] # noqa: TID251
