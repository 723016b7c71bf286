"""Time spans as people write them in a file: `90s`, `1h30m`, `2d`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_PARTS = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?")


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A time span in whole milliseconds."""

    milliseconds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for a text without a unit, or one that is no time at all."""
        found = _PARTS.fullmatch(text.strip())
        numbers = found.groups() if found else ()
        total = sum(
            int(number or 0) * unit
            for number, unit in zip(numbers, _UNITS_MS.values(), strict=False)
        )
        if not total:
            raise ValueError(f"{text!r} is not a time span: write 90s, 5m or 1h30m")
        return cls(total)

    @property
    def seconds(self) -> float:
        return self.milliseconds / 1000

    def __str__(self) -> str:
        parts, rest = [], self.milliseconds
        for name, unit in _UNITS_MS.items():
            count, rest = divmod(rest, unit)
            if count:
                parts.append(f"{count}{name}")
        return "".join(parts)
