"""Bills of material: what is inside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Component:
    """A package; `licenses` are SPDX identifiers, expressions or names, all of which apply."""

    name: str
    version: str = ""
    purl: str = ""
    licenses: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()


@dataclass(frozen=True, slots=True)
class Sbom:
    components: tuple[Component, ...]
