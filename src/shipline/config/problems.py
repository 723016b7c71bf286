"""What is wrong with a file: each problem with its place, and all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shipline.errors import ConfigError


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file; both count from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong: where, with which key (dotted, empty for the file), and why."""

    file: str
    mark: Mark
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.mark.line}:{self.mark.column}"
        return ": ".join(filter(None, (place, self.key, self.message)))


class InvalidConfig(ConfigError):
    """A configuration file with at least one problem; `problems` are in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        first = self.problems[0]
        if len(self.problems) == 1:
            super().__init__(str(first))
            return
        super().__init__(f"{first.file} has {len(self.problems)} errors")
        for problem in self.problems:
            self.add_note(str(problem))
