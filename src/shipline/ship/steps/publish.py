"""The steps `reserve` and `publish`: the version becomes a git tag, then the image gets its tags,
in its repository and the copies, and after that in each region.

The decision of the tag policy is compared with the registries: an immutable tag must keep its
image, and a mutable tag must not move back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from shipline.content import MemoryStore, fetch_all
from shipline.errors import NotFound, ShiplineError
from shipline.git import CommitOrder, commit_order
from shipline.images import TagMoved
from shipline.oci import MANIFEST_LIMIT, Descriptor, Reference
from shipline.ship.plan import (
    PipelineStep,
    PlanInput,
    ProjectConfig,
    StepContext,
    StepKind,
    StepOutcome,
)
from shipline.ship.record import RunRecord
from shipline.ship.section import copy_step, publish_step
from shipline.ship.steps.build import require_images
from shipline.supply import at_the_source
from shipline.tags import (
    Decision,
    GitTag,
    Tag,
    TagPlacement,
    place,
    require_free,
    reserve,
    snapshot,
)
from shipline.units import counted
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.events import Step as Span
    from shipline.supply import Attachable

_ATTEMPTS = 10  # at a tag that others move


@dataclass(frozen=True, slots=True)
class ReservedVersion:
    """The git tag that was reserved for the commit, and the image tags that follow from it, each
    with whether it is mutable.
    """

    version: str
    git_tag: str
    tags: tuple[tuple[str, bool], ...]

    @classmethod
    def of(cls, decision: Decision) -> Self:
        git_tag = decision.git_tag
        tags = tuple((tag.name, tag.mutable) for tag in decision.tags)
        return cls(decision.version, git_tag.name if git_tag else "", tags)

    def to_json(self) -> dict[str, Any]:
        tags = [{"name": name, "mutable": mutable} for name, mutable in self.tags]
        return {"version": self.version, "git_tag": self.git_tag, "tags": tags}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        tags = tuple((tag["name"], bool(tag["mutable"])) for tag in value["tags"])
        return cls(value["version"], value["git_tag"], tags)

    def applied_to(self, decision: Decision) -> Decision:
        """The decision with the reserved version and tags."""
        reasons = {tag.name: tag.reason for tag in decision.tags}
        tags = tuple(
            Tag(name, mutable, reasons.get(name, "reserved before")) for name, mutable in self.tags
        )
        git_tag = GitTag(self.git_tag, decision.commit, False) if self.git_tag else None
        return replace(decision, tags=tags, version=self.version, git_tag=git_tag)


@dataclass(frozen=True, slots=True)
class PublishedNames:
    """The full names of the images, in their repositories and in the copies, with digests."""

    images: tuple[str, ...]
    version: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(image.partition("@")[0] for image in self.images)

    def to_json(self) -> dict[str, Any]:
        images = {"images": [*self.images]} if self.images != self.names else {}
        return {"names": [*self.names], **images, "version": self.version}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(tuple(value.get("images") or value["names"]), value["version"])


def _reserve_steps(inputs: PlanInput) -> Iterator[PipelineStep]:
    name, existing = inputs.naming.new_git_tag, inputs.naming.existing_git_tag
    skip = f"the git tag {existing} exists" if existing else "there is no new version"
    yield PipelineStep(
        name="reserve",
        kind="reserve",
        title="reserve the version in git",
        command=f"git push --atomic origin HEAD:refs/tags/{name}" if name else "",
        compared=name,
        run=_reserve,
        needs=("gates",),
        skip="" if name else skip,
        gives_names=True,
    )


def _publish_steps(inputs: PlanInput) -> Iterator[PipelineStep]:
    section, selection = inputs.pipeline.regions, inputs.selection
    names = map(copy_step, section.registries)
    copied = tuple(name for name in names if not selection.left_out(name))
    needed = section.needed(len(copied))
    yield PipelineStep(
        name="publish",
        kind="publish",
        title="publish the tags",
        **_tagging(inputs, _places(inputs)),
        run=_publish,
        needs=("copy",),
        needs_some=copied,
        at_least=needed,
        note=f"once {needed} of {counted(len(copied), 'region')} have it" if needed else "",
        gives_names=True,
        repeated=True,
    )
    for region, places in inputs.pipeline.in_regions.items():
        left_out = selection.left_out(copy_step(region))
        yield PipelineStep(
            name=publish_step(region),
            kind="publish",
            title=f"publish the tags in the region {region}",
            **_tagging(inputs, {place: name for name, place in places.items()}),
            run=partial(_publish_in, region),
            needs=("publish", copy_step(region)),
            deferrable=section.wait != "all",
            skip=f"the images are not copied there: {left_out}" if left_out else "",
            gives_names=True,
            repeated=True,
        )


def _tagging(inputs: PlanInput, places: Iterable[Reference]) -> dict[str, Any]:
    """What a step that sets the tags in `places` shows, and depends on."""
    names, tags = [str(place) for place in places], [tag.name for tag in inputs.naming.tags]
    return {
        "command": " ".join(f"{name}:{tag}" for name in names for tag in tags),
        "compared": {"places": names, "tags": tags},
    }


def _publish_names(project: ProjectConfig) -> Iterator[str]:
    yield "publish"
    yield from map(publish_step, project.pipeline.regions.registries)


RESERVE = StepKind(name="reserve", steps=_reserve_steps, decode=ReservedVersion.from_json)
PUBLISH = StepKind(
    name="publish", steps=_publish_steps, decode=PublishedNames.from_json, names=_publish_names
)


def _reserve(context: StepContext, span: Span) -> StepOutcome:
    """Reserve the version; if another run was faster, the next one."""
    git, section = context.git, context.project.tags
    event, now = context.environment.event, int(context.environment.clock())
    decision = reserve(git, section, event, fetch=True, now=now)
    planned, reserved = context.inputs.naming.new_git_tag, ReservedVersion.of(decision)
    if reserved.git_tag != planned:
        now_called = f"this one is {reserved.git_tag}" if reserved.git_tag else ""
        span.warn(f"another run took {planned}: {now_called or decision.version_reason}")
    return StepOutcome(result=reserved, reason=reserved.git_tag or decision.version_reason)


def _publish(context: StepContext, span: Span) -> StepOutcome:
    """Set the tags of all images everywhere but in the regions."""
    pipeline, places = context.project.pipeline, _places(context.inputs)
    waited_for = pipeline.in_regions if pipeline.regions.wait == "all" else {}
    regions = {
        place: name
        for region, images in waited_for.items()
        if not context.plan.skips(publish_step(region))
        for name, place in images.items()
    }
    return _set_tags(context, places, span, regions)


def _publish_in(region: str, context: StepContext, span: Span) -> StepOutcome:
    places = context.project.pipeline.in_regions[region]
    return _set_tags(context, {place: name for name, place in places.items()}, span, {})


def _set_tags(
    context: StepContext,
    places: Mapping[Reference, str],
    span: Span,
    later: Mapping[Reference, str],
) -> StepOutcome:
    """Set the tags of the images of the targets in `places`, unless one of them, or of those that
    get theirs `later`, has a conflict. Raises TagConflict before any tag is set; what a registry
    refuses is raised once all were tried.
    """
    decision, targets = reserved_decision(context), require_images(context.run)
    older = commit_order(context.git, context.project.tags.remote, fetch=True)
    destinations = {
        place: (context.environment.repositories(place), targets[name])
        for place, name in places.items()
    }
    for destination in (*places, *later):
        placements(context.environment.repositories(destination), decision, older, str(destination))
    immutable = {tag.name for tag in decision.tags if not tag.mutable}
    images: list[str] = []
    failures: list[ShiplineError] = []
    for destination, (repository, target) in destinations.items():
        try:
            done = give_tags(repository, target, decision, older)
        except ShiplineError as error:
            failures.append(error)
            continue
        _report(destination, done, span)
        for tag, reason in done.kept:
            if tag in immutable:
                span.warn(f"{destination}:{tag} is immutable and stays: {reason}")
        lost = lost_races(repository, target, done.added)
        for tag in lost:
            span.warn(f"{destination}:{tag} was moved by another run meanwhile")
        current = (*done.added, *done.present)
        kept = [tag for tag in current if tag not in lost]
        images += [f"{destination.name}:{tag}@{target.digest}" for tag in kept]
    span.note(tags=len(images))
    if failures:
        raise _incomplete(failures, images)
    published = PublishedNames(tuple(images), decision.version)
    return StepOutcome(result=published, reason=", ".join(published.names))


def _incomplete(failures: Sequence[ShiplineError], images: Sequence[str]) -> ShiplineError:
    """The first failure, which says what got its tags all the same."""
    first, *others = failures
    for failure in others:
        first.add_note(failure.message)
    for image in images:
        first.add_note(f"tagged: {image}")
    return first


def names_of(run: RunRecord) -> tuple[str, ...]:
    """The names that the images of a run got."""
    return tuple(name for done in _published(run) for name in done.names)


def tagged_images(run: RunRecord) -> list[str]:
    """The names that the images of a run got, with digests."""
    return [image for done in _published(run) for image in done.images]


def _published(run: RunRecord) -> Iterator[PublishedNames]:
    """The names in the repositories and copies, then those in each region."""
    for step in run.steps:
        if isinstance(step.result, PublishedNames):
            yield step.result


def version_of(run: RunRecord) -> str:
    """The version that was reserved, or that the commit had; empty if there is none."""
    results = run.result("reserve", ReservedVersion), run.result("publish", PublishedNames)
    return next((result.version for result in results if result and result.version), "")


def reserved_decision(context: StepContext) -> Decision:
    """What the policy decided, with the version that was reserved."""
    reserved = context.run.result("reserve", ReservedVersion)
    return reserved.applied_to(context.decision) if reserved else context.decision


def _places(inputs: PlanInput) -> dict[Reference, str]:
    """The repositories that get tags, each with the target whose image it gets; those of copies
    only if they are made.
    """
    copies = not inputs.selection.left_out("copy")
    return {
        place: name
        for name, build in inputs.pipeline.builds.items()
        for place in (build.places if copies else build.places[:1])
    }


def _report(place: Reference, done: TagChanges, span: Span) -> None:
    lines = [
        *(f"{place.name}:{tag}" for tag in done.added),
        *(f"{place.name}:{tag} already exists" for tag in done.present),
        *(f"{place}:{tag} stays: {reason}" for tag, reason in done.kept),
    ]
    span.output("".join(f"{line}\n" for line in lines).encode())


def placements(
    repository: Attachable, decision: Decision, older: CommitOrder, name: str = ""
) -> tuple[TagPlacement, ...]:
    """What to do about each tag of the decision in one repository. Raises TagConflict, which says
    the repository's `name`.
    """
    placed = place(decision, snapshot(repository, decision.names), older)
    require_free(placed, name)
    return placed


@dataclass(frozen=True, slots=True)
class TagChanges:
    """The changes of tags in one repository: added, already present, kept as they were."""

    added: tuple[str, ...]
    present: tuple[str, ...]
    kept: tuple[tuple[str, str], ...]


def give_tags(
    repository: Attachable, target: Descriptor, decision: Decision, older: CommitOrder
) -> TagChanges:
    """Set the tags of `target`, immutable ones first. Raises TagConflict before any is set.

    A tag that another run moves meanwhile is compared again: one of a newer commit is not changed.
    Raises TagMoved for one that others move again and again.
    """
    repository = at_the_source(repository)
    planned = placements(repository, decision, older)
    raw = MemoryStore(fetch_all(repository, target, MANIFEST_LIMIT))
    added, present, kept = [], [], []
    for tag, placement in sorted(zip(decision.tags, planned, strict=True), key=_is_mutable):
        alone = replace(decision, tags=(tag,))
        for _ in range(_ATTEMPTS):
            if placement.action == "reuse" and placement.digest == target.digest:
                present.append(tag.name)
            elif placement.action == "keep" or (placement.action == "reuse" and not tag.mutable):
                kept.append((tag.name, placement.reason))
            elif repository.swap(target, raw, tag.name, placement.digest):
                added.append(tag.name)
            else:
                (placement,) = placements(repository, alone, older)
                continue
            break
        else:
            raise TagMoved(tag.name)
    return TagChanges(tuple(added), tuple(present), tuple(kept))


def _is_mutable(planned: tuple[Tag, TagPlacement]) -> bool:
    return planned[0].mutable


def lost_races(repository: Attachable, target: Descriptor, tags: Iterable[str]) -> tuple[str, ...]:
    """The tags that another run has moved since: registries have no compare-and-swap."""
    lost = []
    for tag in tags:
        with suppress(NotFound):
            if repository.resolve(tag).digest != target.digest:
                lost.append(tag)
    return tuple(lost)
