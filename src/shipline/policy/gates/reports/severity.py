"""Severities, in order."""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class Severity(IntEnum):
    """How bad it is; UNKNOWN sorts lowest and is treated as bad by those who must decide."""

    UNKNOWN = 0
    NEGLIGIBLE = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5

    @classmethod
    def parse(cls, text: str) -> Self:
        """The severity that tools call so, in any case. Raises ValueError for another word."""
        word = text.strip().upper()
        try:
            return cls[_WORDS.get(word, word)]
        except KeyError:
            raise ValueError(
                f"not a severity: {text[:40]!r}; write negligible, low, medium, high or critical"
            ) from None

    @classmethod
    def named(cls, text: str) -> Self:
        """As `parse`, and UNKNOWN for another word."""
        try:
            return cls.parse(text)
        except ValueError:
            return cls(0)

    @classmethod
    def scored(cls, score: float) -> Self:
        """From a CVSS base score (CVSS v3.1, table 14); UNKNOWN outside 0 to 10."""
        if not 0 <= score <= 10:
            return cls(0)
        limits = (("CRITICAL", 9.0), ("HIGH", 7.0), ("MEDIUM", 4.0), ("LOW", 0.1))
        return next((cls[name] for name, least in limits if score >= least), cls["NEGLIGIBLE"])

    def __str__(self) -> str:
        return self.name.lower()


_WORDS = {
    "MODERATE": "MEDIUM",
    "IMPORTANT": "HIGH",
    "INFO": "NEGLIGIBLE",
    "INFORMATIONAL": "NEGLIGIBLE",
    "NONE": "NEGLIGIBLE",
    "MINIMAL": "NEGLIGIBLE",
    "UNTRIAGED": "UNKNOWN",
    "": "UNKNOWN",
}
