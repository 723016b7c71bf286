"""Statements that a vulnerability does not matter for a product."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class VexStatement:
    """`products` and `parts` are purls; no parts: the statement is about the product itself."""

    vulnerability: str
    status: str
    aliases: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    justification: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Vex:
    """Statements of one author, in the order of the document."""

    statements: tuple[VexStatement, ...]
    author: str = ""
