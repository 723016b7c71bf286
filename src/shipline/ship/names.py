"""The names an image gets: what the policy decided, compared with what registries have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from shipline.content import MemoryStore, fetch_all
from shipline.errors import NotFound
from shipline.git import Git, complete_history, is_ancestor, read_repository, shallow_clone
from shipline.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    Digest,
    Reference,
)
from shipline.ship.plan import Naming
from shipline.ship.source import Source
from shipline.supply import Attachable
from shipline.tags import (
    PULL_MERGE,
    REVISION,
    Decision,
    GitTag,
    Tag,
    TagPlacement,
    place,
    require_free,
    snapshot,
)

_SHORT = 12  # digits of a commit or tree in a tag

Order = Callable[[str, str], bool]
"""Of two commits, whether the first is in the history of the second."""


class Remote(Attachable, Protocol):
    """A repository of a registry: content, names, referrers."""


def placements(repository: Remote, decision: Decision, older: Order) -> tuple[TagPlacement, ...]:
    """What to do about each tag of the decision in one repository. Raises TagConflict."""
    there = snapshot(repository, decision.names)
    found = place(decision, there, older)
    require_free(found)
    return found


def order_of(git: Git, remote: str, *, fetch: bool) -> Order:
    """Whether one commit is in the history of another, where a shallow clone may not know.

    Such a clone is completed from `remote` (the usual one where it is empty) before a no is
    believed. The order raises ShallowClone where that fails or nothing may be fetched.
    """

    def older(old: str, new: str) -> bool:
        if is_ancestor(git, old, new):
            return True
        clone = read_repository(git, remote=remote)
        if not clone.shallow:
            return False
        if not fetch:
            raise shallow_clone(clone.remote, "nothing is fetched here unless --fetch says so")
        complete_history(git, clone.remote)
        return is_ancestor(git, old, new)

    return older


def dirty_decision(decision: Decision, source: Source) -> Decision:
    """The decision for files that no commit has: one tag that says so, and no version."""
    name = f"dirty-{source.commit[:_SHORT]}-{source.tree[:_SHORT]}"
    tag = Tag(name, True, "the work tree has changes that are not committed")
    revision = {REVISION: f"{source.commit}-dirty", PULL_MERGE: ""}
    return replace(
        decision,
        tags=(tag,),
        git_tag=None,
        version="",
        called=name,
        version_reason="files that no commit has get no version",
        labels=_over(decision.labels, revision),
        annotations=_over(decision.annotations, revision),
    )


def _over(labels: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """The labels with others over them; an empty value takes one away."""
    return {key: value for key, value in {**labels, **others}.items() if value}


def naming_of(decision: Decision, reuse: Digest | None, notes: tuple[str, ...] = ()) -> Naming:
    """What a plan shows of a decision."""
    git_tag = decision.git_tag
    return Naming(
        tags=tuple((tag.name, tag.reason) for tag in decision.tags),
        git_tag=git_tag.name if git_tag and git_tag.new else "",
        standing=git_tag.name if git_tag and not git_tag.new else "",
        push=decision.push,
        reuse=reuse,
        notes=(*decision.notes, *notes),
    )


def decision_results(decision: Decision) -> dict[str, Any]:
    """What the record keeps of a decision that was reserved."""
    git_tag = decision.git_tag
    return {
        "version": decision.version,
        "git_tag": git_tag.name if git_tag else "",
        "tags": [{"name": tag.name, "mutable": tag.mutable} for tag in decision.tags],
    }


def restored(decision: Decision, results: Mapping[str, Any]) -> Decision:
    """The decision with the names that an earlier attempt reserved."""
    reasons = {tag.name: tag.reason for tag in decision.tags}
    tags = tuple(
        Tag(one["name"], one["mutable"], reasons.get(one["name"], "reserved before"))
        for one in results["tags"]
    )
    name = results["git_tag"]
    git_tag = GitTag(name, decision.commit, False) if name else None
    return replace(decision, tags=tags, version=results["version"], git_tag=git_tag)


@dataclass(frozen=True, slots=True)
class Published:
    """What became of the tags in one repository: given now, there before, left as they were."""

    given: tuple[str, ...]
    there: tuple[str, ...]
    kept: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.given, *self.there)


def publish(repository: Remote, target: Descriptor, decision: Decision, older: Order) -> Published:
    """Give `target` its tags: those that never move first. Raises TagConflict, before any is given.

    A tag that another run moved meanwhile to a newer commit is left to it.
    """
    found = placements(repository, decision, older)
    mutable = {tag.name for tag in decision.tags if tag.mutable}
    given, there, kept = [], [], []
    for one in found:
        if one.action == "reuse" and one.digest == target.digest:
            there.append(one.tag)
        elif one.action == "keep" or (one.action == "reuse" and one.tag not in mutable):
            kept.append((one.tag, one.reason))
        else:
            given.append(one.tag)
    _tag_all(repository, target, sorted(given, key=mutable.__contains__))
    return Published(tuple(given), tuple(there), tuple(kept))


def _tag_all(repository: Remote, target: Descriptor, tags: list[str]) -> None:
    raw = fetch_all(repository, target, MANIFEST_LIMIT)
    for tag in tags:
        repository.tag(target, MemoryStore(raw), tag)


def lost_races(repository: Remote, target: Descriptor, tags: Iterable[str]) -> tuple[str, ...]:
    """The tags that another run has moved since: registries have no write that tells."""
    lost = []
    for tag in tags:
        with suppress(NotFound):
            if repository.resolve(tag).digest != target.digest:
                lost.append(tag)
    return tuple(lost)


def named(image: Reference, tags: Iterable[str]) -> tuple[str, ...]:
    """Full names."""
    return tuple(f"{image.name}:{tag}" for tag in tags)
