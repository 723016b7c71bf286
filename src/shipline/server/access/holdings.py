"""What projects hold, as the storage counts it, for those who administer them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shipline.server.access.accounts import Project
from shipline.server.access.directory import View
from shipline.server.entries import Usage


def _nothing() -> Iterable[tuple[str, Usage]]:
    return ()


def _unlimited(project: str) -> int | None:
    return None


@dataclass(frozen=True, slots=True)
class Holdings:
    """`usages` yields every repository; `limit` is the most bytes that a project may hold, None
    for no limit.
    """

    usages: Callable[[], Iterable[tuple[str, Usage]]] = _nothing
    limit: Callable[[str], int | None] = _unlimited

    def repositories(self, view: View) -> Counter[str]:
        """The number of repositories by the name of their project."""
        found = (view.project(name) for name, _ in self.usages())
        return Counter(project.name for project in found if project is not None)

    def bytes_of(self, view: View, project: Project) -> int:
        """A blob in two repositories counts twice."""
        return sum(usage.bytes for name, usage in self.usages() if view.project(name) == project)
