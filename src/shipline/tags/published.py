"""Compares tags with the registry: immutable tags are never overwritten, others never move back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from shipline.content import Repository, fetch_all, fetch_document
from shipline.errors import GateRefused, NotFound
from shipline.oci import CONFIG_LIMIT, Descriptor, Digest, Index, Manifest
from shipline.tags.decision import Decision, Tag, built_from

Action = Literal["create", "reuse", "move", "keep", "conflict"]


@dataclass(frozen=True, slots=True)
class PublishedImage:
    """An image under a tag: its digest, and the commit in its annotations or labels; empty if there
    is none.
    """

    digest: Digest
    revision: str = ""


@dataclass(frozen=True, slots=True)
class TagPlacement:
    """What to do about a tag. `create`: it does not exist. `reuse`: it has this commit's image.
    `move`: it has an older image. `keep`: it has a newer image and is not changed. `conflict`: it
    is immutable and belongs to another commit. `digest` is that of the image which it has.
    """

    tag: str
    action: Action
    reason: str
    digest: Digest | None = None


def place(
    decision: Decision,
    snapshot: Mapping[str, PublishedImage],
    is_ancestor: Callable[[str, str], bool],
) -> tuple[TagPlacement, ...]:
    """What to do about each tag of the decision.

    `snapshot` has the images under these tags; `is_ancestor(old, new)` tells whether one commit is
    in the history of another, False for unknown commits.
    """
    return tuple(
        _place(tag, decision.commit, snapshot.get(tag.name), is_ancestor) for tag in decision.tags
    )


def reusable(placements: Iterable[TagPlacement]) -> Digest | None:
    """The existing image of this commit, which need not be built again.

    A mutable tag does not count if another tag has an image. Raises TagConflict.
    """
    known = [*placements]
    require_free(known)
    return next((placement.digest for placement in known if placement.action == "reuse"), None)


class TagConflict(GateRefused):
    """An immutable tag belongs to another commit; `verdicts` name both."""

    code = "tag-conflict"


def require_free(placements: Iterable[TagPlacement], repository: str = "") -> None:
    """Raises TagConflict, which names the repository, if an immutable tag belongs to another
    commit.
    """
    lost = [placement for placement in placements if placement.action == "conflict"]
    if lost:
        raise TagConflict(
            f"the tag {lost[0].tag}{f' of {repository}' if repository else ''} belongs to another"
            " image and is immutable",
            verdicts=tuple(f"{placement.tag}: {placement.reason}" for placement in lost),
            hint="release another commit; if the tag is wrong, delete it in that registry, and run"
            " this again",
        )


def _place(
    tag: Tag, commit: str, there: PublishedImage | None, is_ancestor: Callable[[str, str], bool]
) -> TagPlacement:
    if there is None:
        return TagPlacement(tag.name, "create", "it does not exist in the registry")
    whose = f"it is {there.digest} of {there.revision[:12] or 'an unknown commit'}"
    if there.revision == commit:
        return TagPlacement(tag.name, "reuse", f"{whose}, this one", there.digest)
    if not tag.mutable:
        return TagPlacement(tag.name, "conflict", f"{whose}; this is {commit[:12]}", there.digest)
    if not there.revision:
        reason = f"{whose}, so it is unknown which one is newer"
        return TagPlacement(tag.name, "move", reason, there.digest)
    if is_ancestor(there.revision, commit):
        return TagPlacement(tag.name, "move", f"{whose}, which is older", there.digest)
    newer = is_ancestor(commit, there.revision)
    reason = "newer: superseded" if newer else "not in the history of this commit"
    return TagPlacement(tag.name, "keep", f"{whose}, which is {reason}", there.digest)


def snapshot(repository: Repository, tags: Iterable[str]) -> dict[str, PublishedImage]:
    """The image under each of the tags; tags that do not exist are left out.

    Raises RegistryError, AuthError, ContentError.
    """
    images = {}
    for tag in tags:
        try:
            target = repository.resolve(tag)
            images[tag] = PublishedImage(target.digest, revision(repository, target))
        except NotFound:
            continue
    return images


def revision(repository: Repository, target: Descriptor) -> str:
    """The commit that an image was built from, from its annotations, else its labels; for an index
    without the annotation, from its first image. Empty if unknown.
    """
    document = fetch_document(repository, target)
    if stated := built_from(document.annotations):
        return stated
    if isinstance(document, Index):
        images = [child for child in document.manifests if child.platform is not None]
        return revision(repository, images[0]) if images else ""
    return _label(repository, document)


def _label(repository: Repository, manifest: Manifest) -> str:
    try:
        config = json.loads(fetch_all(repository, manifest.config, CONFIG_LIMIT))
        return built_from((config.get("config") or {}).get("Labels", {}))
    except (ValueError, AttributeError):
        return ""  # an artifact, or an image whose configuration has other things to complain of
