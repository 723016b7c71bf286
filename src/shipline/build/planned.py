"""A stage while its instructions are read: its files so far, its configuration, its history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from shipline import dockerfile as df
from shipline.build.graph import Vertex
from shipline.oci import ImageConfig


@dataclass(frozen=True, slots=True)
class Note:
    """One line of history to come; `vertex` is what made its layer, None where none was made."""

    text: str
    vertex: Vertex | None = None
    comment: str = df.COMMENT


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage so far. `image` holds the history of the base alone, `notes` what came after."""

    vertex: Vertex
    image: ImageConfig
    scope: df.Scope
    notes: tuple[Note, ...] = ()
    shell: tuple[str, ...] = df.DEFAULT_SHELL
    shell_set: bool = False
    cmd_set: bool = False

    @property
    def workdir(self) -> str:
        return str(self.image.run.get("WorkingDir") or "/")

    @property
    def user(self) -> str:
        return str(self.image.run.get("User") or "")

    def with_run(self, **values: Any) -> Planned:
        return replace(self, image=self.image.set(**values))

    def noted(self, text: str | None, vertex: Vertex | None = None) -> Planned:
        if text is None:
            return self
        state = self if vertex is None else replace(self, vertex=vertex)
        return replace(state, notes=(*self.notes, Note(text, vertex)))
