"""Quotas: how much a project may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from shipline.server.cache import UPLOADING, Totals, prefixes
from shipline.server.door.section import Quota
from shipline.server.problems import Problem


class Quotas:
    """A project is a prefix of names: one that `projects` (of the accounts) or a rule names, else
    the first component; the longest counts for a repository. What it holds are its repositories
    and what uploads are bringing to them: requests of one moment see each other's.
    """

    def __init__(
        self,
        totals: Totals,
        rules: Sequence[Quota],
        projects: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._totals = totals
        self._rules = tuple(rules)
        self._projects = projects

    def admit(self, name: str, size: int, *, tags: int = 0) -> None:
        """Raises Problem 403 DENIED where `size` more bytes or `tags` more tags are too many."""
        if not self._rules:
            return
        known = {rule.project for rule in self._rules}.union(self._projects())
        project = next((one for one in prefixes(name) if one in known), name.partition("/")[0])
        rules = _about(self._rules, project)
        if not rules:
            return
        held = self._held(project, known)
        for rule in rules:
            if rule.size is not None and held["bytes"] + held[UPLOADING] + size > rule.size.bytes:
                used = f"{held['bytes']} bytes are used, {held[UPLOADING] + size} come"
                raise _full(project, f"{rule.size}", used)
            if rule.tags is not None and tags and held["tags"] + tags > rule.tags:
                raise _full(project, f"{rule.tags} tags", f"{held['tags']} are there")

    def _held(self, project: str, known: set[str]) -> Counter[str]:
        """Without what belongs to projects inside of this one."""
        held = self._totals.below(project)
        inside = {one for one in known if one.startswith(f"{project}/")}
        for one in inside:
            if inside.isdisjoint(list(prefixes(one))[1:]):
                held.subtract(self._totals.below(one))
        return held


def size_limit(rules: Sequence[Quota], project: str) -> int | None:
    """The most bytes that a project may hold, None for any number."""
    sizes = (rule.size for rule in _about(rules, project))
    return min((size.bytes for size in sizes if size is not None), default=None)


def _about(rules: Sequence[Quota], project: str) -> list[Quota]:
    return [rule for rule in rules if rule.project in ("*", project)]


def _full(project: str, limit: str, now: str) -> Problem:
    return Problem(
        403,
        "DENIED",
        f"quota of project {project}: the limit is {limit}, {now}; delete what is not needed and "
        "wait for the next collection, or ask for a higher quota",
    )
