"""Quotas: how much a project may hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shipline.server.door.section import Quota
from shipline.server.entries import Usage
from shipline.server.problems import Problem
from shipline.server.storage import Storage


class Quotas:
    """What a project holds is counted with its repositories; requests at once may all pass, so a
    project can end above its limit by what they brought.
    """

    def __init__(self, storage: Storage, rules: Sequence[Quota]) -> None:
        self._storage = storage
        self._rules = tuple(rules)

    def admit(self, name: str, size: int, *, tags: int = 0) -> None:
        """Raises Problem 403 DENIED where `size` more bytes or `tags` more tags are too many; also
        for nothing more at all where the limit is reached already.
        """
        project = name.partition("/")[0]
        rules = _about(self._rules, project)
        if not rules:
            return
        held = self.usage(project)
        for rule in rules:
            if rule.size is not None and held.bytes + max(size, 1) > rule.size.bytes:
                raise _full(project, f"{rule.size}", f"{held.bytes} bytes are used, {size} come")
            if rule.tags is not None and tags and held.tags + tags > rule.tags:
                raise _full(project, f"{rule.tags} tags", f"{held.tags} are there")

    def usage(self, project: str) -> Usage:
        """All repositories of a project together."""
        total = Usage()
        for usage in self._usages(project):
            total = Usage(
                total.blobs + usage.blobs,
                total.bytes + usage.bytes,
                total.manifests + usage.manifests,
                total.tags + usage.tags,
            )
        return total

    def _usages(self, project: str) -> Iterator[Usage]:
        yield self._storage.usage(project)
        for _, usage in self._storage.usages(f"{project}/"):
            yield usage


def size_limit(rules: Sequence[Quota], project: str) -> int | None:
    """The most bytes that a project may hold, None for any number."""
    sizes = (rule.size for rule in _about(rules, project.partition("/")[0]))
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
