"""Tags against what the registry has: never overwritten, never rebuilt, never moved back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from shipline.errors import GateRefused
from shipline.oci import Digest
from shipline.policy.tags.decision import Decision, Tag

Action = Literal["create", "reuse", "move", "keep", "conflict"]


@dataclass(frozen=True, slots=True)
class Existing:
    """An image under a tag: its digest, and the commit its annotation or label names, or none."""

    digest: Digest
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """What to do about a tag.

    `create`: it is free. `reuse`: it has this commit's image, `digest`, which is taken as it is.
    `move`: it has an older image. `keep`: it has a newer one and stays. `conflict`: it must not
    move, and another commit has it.
    """

    tag: str
    action: Action
    reason: str
    digest: Digest | None = None


def place(
    decision: Decision,
    snapshot: Mapping[str, Existing],
    is_ancestor: Callable[[str, str], bool],
) -> tuple[Placement, ...]:
    """What to do about each tag of the decision.

    `snapshot` is what the registry has under these tags; `is_ancestor(old, new)` tells whether one
    commit is in the history of another, False for commits that nobody knows.
    """
    return tuple(
        _place(tag, decision.commit, snapshot.get(tag.name), is_ancestor) for tag in decision.tags
    )


def reusable(placements: Iterable[Placement]) -> Digest | None:
    """The image that this commit already has under a tag of its own: it must not be built again.

    A tag that moves does not count where another tag names an image. Raises TagConflict.
    """
    found = [*placements]
    require_free(found)
    return next((one.digest for one in found if one.action == "reuse"), None)


class TagConflict(GateRefused):
    """A tag that never moves is another commit's; `verdicts` name both."""

    code = "tag-conflict"


def require_free(placements: Iterable[Placement]) -> None:
    """Raises TagConflict where a tag is another commit's."""
    lost = [one for one in placements if one.action == "conflict"]
    if lost:
        raise TagConflict(
            f"the tag {lost[0].tag} is another image's and must not move",
            verdicts=tuple(f"{one.tag}: {one.reason}" for one in lost),
            hint="release another commit, or delete the tag in the registry if it is wrong",
        )


def _place(
    tag: Tag, commit: str, there: Existing | None, is_ancestor: Callable[[str, str], bool]
) -> Placement:
    if there is None:
        return Placement(tag.name, "create", "the registry does not have it")
    whose = f"it is {there.digest} of {there.revision[:12] or 'an unknown commit'}"
    if there.revision == commit:
        return Placement(tag.name, "reuse", f"{whose}, this one", there.digest)
    if not tag.mutable:
        return Placement(tag.name, "conflict", f"{whose}; this is {commit[:12]}", there.digest)
    if not there.revision:
        return Placement(tag.name, "move", f"{whose}, so nothing shows that it is newer")
    if is_ancestor(there.revision, commit):
        return Placement(tag.name, "move", f"{whose}, which is older")
    newer = is_ancestor(commit, there.revision)
    why = "newer: superseded" if newer else "not in the history of this commit"
    return Placement(tag.name, "keep", f"{whose}, which is {why}", there.digest)
