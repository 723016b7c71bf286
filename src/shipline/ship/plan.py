"""The plan of a run: the steps of the project in order, and why some are skipped.

A kind of step is a value, `StepKind`, in a file in `steps`. It makes the steps of its kind from
`PlanInput`; `make_plan` orders them. Both are pure.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipline.errors import UsageError
from shipline.git import Git, WorkTree
from shipline.oci import Descriptor, Digest, Reference
from shipline.ship.record import RunRecord, StepResult, by_target
from shipline.ship.section import Pipeline

if TYPE_CHECKING:
    from shipline.build import BuildRequest
    from shipline.deliver.delivery import Delivery
    from shipline.deliver.environments import Environments
    from shipline.events import Step as Span
    from shipline.gates import GatesSection
    from shipline.ship.runs import Recorder
    from shipline.supply import Attachable, PrivateKey
    from shipline.tags import Decision, Event, Tag, TagsSection

UNGATED = "there are no gates: images are tagged whatever tests, coverage or scanners report"
UNGATED_HINT = (
    "add `gates` to shipline.yaml, or name a gate in the `reports` of a step; "
    "`shipline explain gate-none` has an example"
)


@dataclass(frozen=True, slots=True)
class ProjectConfig:
    """The configuration of a project: paths are relative to `root`; `file` is its name there."""

    root: Path
    file: str
    pipeline: Pipeline
    tags: TagsSection
    gates: GatesSection | None = None
    environments: Environments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Environment:
    """The surroundings of the project: state directory, variables, event, registries.
    `repositories` opens a repository, `signers` loads the keys at a path or URL; `delivery` is the
    way to its environments, if it has some.
    """

    home: Path
    environ: Mapping[str, str]
    event: Event
    repositories: Callable[[Reference], Attachable]
    signers: Callable[[str], Sequence[PrivateKey]]
    clock: Callable[[], float] = time.time
    delivery: Delivery | None = None


Builder = Callable[[Mapping[str, "BuildRequest"], "Span"], Mapping[str, Descriptor]]
"""Builds and pushes; returns for each target its index, or the manifest of a single platform."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which steps to run. `built` are images from other machines by target, merged instead of a
    build; `until` is the environment at which the run ends, or `publish`.
    """

    only: frozenset[str] = frozenset()
    skip: frozenset[str] = frozenset()
    built: Mapping[str, tuple[Digest, ...]] = field(default_factory=dict)
    until: str = ""

    def left_out(self, name: str) -> str:
        """Why the step is not run; empty if it is."""
        if self.only and name not in self.only:
            return "not among --only"
        return "skipped by --skip" if name in self.skip else ""

    def check(self, known: Set[str], environments: Iterable[str] = ()) -> None:
        """Raises UsageError for a name of no step, and for one of no environment."""
        ends = ("publish", *environments)
        if self.until and self.until not in ends:
            raise UsageError(
                f"--until: there is no environment {self.until!r}",
                code="environment-unknown",
                hint=f"there is {', '.join(ends)}",
            )
        for option, names in (("--only", self.only), ("--skip", self.skip)):
            for name in sorted(names - known):
                raise UsageError(
                    f"{option}: there is no step {name!r}",
                    code="step-unknown",
                    hint=f"there is {', '.join(sorted(known))}",
                )


@dataclass(frozen=True, slots=True)
class Naming:
    """What the tag policy decided; None if no step needs it. `reuse` are the existing images of
    this commit, by target; `refused` is why nothing may be tagged, `problems` are what a run
    would end with.
    """

    decision: Decision | None = None
    reuse: Mapping[str, Digest] = field(default_factory=dict)
    refused: str = ""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tags(self) -> tuple[Tag, ...]:
        return self.decision.tags if self.decision else ()

    @property
    def push(self) -> bool:
        return self.decision is None or self.decision.push

    @property
    def new_git_tag(self) -> str:
        """The git tag to create for the version."""
        return self._git_tag(new=True)

    @property
    def existing_git_tag(self) -> str:
        return self._git_tag(new=False)

    def _git_tag(self, *, new: bool) -> str:
        tag = self.decision.git_tag if self.decision else None
        return tag.name if tag and tag.new == new else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "tags": [{"name": tag.name, "reason": tag.reason} for tag in self.tags],
            "git_tag": self.new_git_tag,
            "standing": self.existing_git_tag,
            "push": self.push,
            "reuse": by_target({name: str(digest) for name, digest in self.reuse.items()}) or "",
            "refused": self.refused,
            "problems": [*self.problems],
            "notes": [*self.notes],
        }


@dataclass(frozen=True, slots=True)
class PlanInput:
    """What a plan is made from."""

    project: ProjectConfig
    work_tree: WorkTree
    selection: Selection
    event: Event
    environ: Mapping[str, str]
    naming: Naming

    @property
    def pipeline(self) -> Pipeline:
        return self.project.pipeline

    @property
    def branch(self) -> str:
        return self.event.branch or self.work_tree.branch


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStep:
    """A step of the pipeline. `title` is shown while it runs, `command` is what one would type for
    it, `skip` why it is skipped. `compared` is all that its result depends on besides the commit
    and the steps before it, as JSON values. `programs` must be installed before any step runs.
    `run` raises ShiplineError if the step fails.

    A step with `on_image` looks at the pushed image; one with `gives_names` makes it visible. One
    with `own_log` writes its log itself; for others it is made from their events. One with
    `needs_some` waits until `at_least` of these have passed. The failure of one that is
    `deferrable` fails no run: it is pending, and done when the run is resumed. Others can undo what
    one with `repeated` did: it runs again whenever the run is resumed, and changes what differs.
    """

    name: str
    kind: str
    title: str
    command: str
    compared: object
    run: Callable[[StepContext, Span], StepOutcome]
    needs: tuple[str, ...] = ()
    needs_some: tuple[str, ...] = ()
    at_least: int = 0
    deferrable: bool = False
    skip: str = ""
    note: str = ""
    programs: tuple[str, ...] = ()
    on_image: bool = False
    gives_names: bool = False
    own_log: bool = False
    repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKind:
    """A kind of step: the steps that a project has, and how their results are read from a record.

    `steps` makes the steps of a run; `names` are their names, if not that of the kind. `missing`
    reports what the project's file names for them that does not exist, as far as that is known
    without a build, a registry or a commit. `decode` raises KeyError, TypeError, ValueError or
    ShiplineError. A kind without `uses_decision` needs no tag policy, image name or registry.
    """

    name: str
    steps: Callable[[PlanInput], Iterable[PipelineStep]]
    decode: Callable[[Mapping[str, Any]], StepResult | None] = lambda results: None
    names: Callable[[ProjectConfig], Iterable[str]] | None = None
    missing: Callable[[ProjectConfig], Iterable[str]] = lambda project: ()
    uses_decision: bool = True

    def names_in(self, project: ProjectConfig) -> Iterable[str]:
        return (self.name,) if self.names is None else self.names(project)


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step in a plan. Equal keys make equal results; `skip` is why it is skipped."""

    step: PipelineStep
    key: str
    skip: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    """What the key was made of, as digests by name; that of another step is its key."""

    @property
    def shown(self) -> dict[str, str]:
        """The attributes of the span of the step."""
        inputs = [key for name, key in self.parts.items() if name.startswith(_NEEDED)]
        return {"stage": self.name, "vertex": self.key, "inputs": " ".join(inputs)}

    @property
    def name(self) -> str:
        return self.step.name

    def to_json(self) -> dict[str, Any]:
        shown = ("name", "kind", "needs", "title", "command")
        document = {key: getattr(self.step, key) for key in shown}
        note = "" if self.skip else self.step.note
        return {**document, "key": self.key, "skip": self.skip, "note": note}


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run, in an order that respects `needs`."""

    inputs: PlanInput
    steps: tuple[PlannedStep, ...]

    @property
    def ungated(self) -> bool:
        """Whether the image is tagged without any gate."""
        return self.skips("gates") and not self.skips("publish")

    def skips(self, name: str) -> bool:
        return bool(self.step(name).skip)

    def step(self, name: str) -> PlannedStep:
        return next(step for step in self.steps if step.name == name)

    def to_json(self) -> dict[str, Any]:
        work_tree = self.inputs.work_tree
        return {
            "version": 1,
            "image": str(self.inputs.pipeline.image or ""),
            "images": {name: str(image) for name, image in self.inputs.pipeline.images.items()},
            "commit": work_tree.commit,
            "tree": work_tree.tree,
            "branch": self.inputs.branch,
            "dirty": work_tree.dirty,
            "steps": [step.to_json() for step in self.steps],
            "naming": self.inputs.naming.to_json(),
        }


_NEEDED = "step "  # before the name of a needed step in `parts`


def make_plan(inputs: PlanInput, steps: Iterable[PipelineStep]) -> Plan:
    """The plan of a run of `steps`: each after those that it needs, otherwise in the given
    order.
    """
    declared = {step.name: step for step in steps}
    planned: dict[str, PlannedStep] = {}

    def add(step: PipelineStep) -> None:
        if step.name in planned:
            return
        for needed in (*step.needs, *step.needs_some):
            add(declared[needed])
        needed_keys = {needed: planned[needed].key for needed in step.needs}
        key = _key(step, inputs.work_tree, [*needed_keys.values()])
        parts = _parts(step, inputs.work_tree, needed_keys)
        planned[step.name] = PlannedStep(step, key, _skip(step, inputs, planned), parts)

    for step in declared.values():
        add(step)
    return Plan(inputs, tuple(planned.values()))


def _key(step: PipelineStep, work_tree: WorkTree, needed_keys: list[str]) -> str:
    parts = ["step/2", work_tree.commit, work_tree.tree, step.name, step.compared, needed_keys]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _parts(
    step: PipelineStep, work_tree: WorkTree, needed_keys: Mapping[str, str]
) -> dict[str, str]:
    compared = step.compared
    settings = compared if isinstance(compared, Mapping) else {"settings": compared}
    return {
        "commit": work_tree.commit,
        "tree": work_tree.tree,
        **{
            str(name): hashlib.sha256(json.dumps(one, sort_keys=True).encode()).hexdigest()[:12]
            for name, one in settings.items()
        },
        **{f"{_NEEDED}{name}": key for name, key in needed_keys.items()},
    }


def _skip(step: PipelineStep, inputs: PlanInput, before: Mapping[str, PlannedStep]) -> str:
    """Why a step is skipped: it is not selected, has its own reason, or depends on another one:
    only an image that was built can be inspected, and only one that was also judged is tagged.
    """
    if reason := inputs.selection.left_out(step.name):
        return reason
    if step.on_image:
        return step.skip or _no_image(inputs, before["build"].skip)
    if step.gives_names:
        return _no_names(inputs, before) or step.skip
    return step.skip


def _no_image(inputs: PlanInput, build: str) -> str:
    if build:
        return f"there is no image to inspect: build is {build}"
    return "" if inputs.naming.push else "nothing is pushed that could be inspected"


def _no_names(inputs: PlanInput, before: Mapping[str, PlannedStep]) -> str:
    if build := before["build"].skip:
        return f"there is no image: build is {build}"
    if inputs.project.gates is not None and (gates := before["gates"].skip):
        return f"nothing is tagged without the gates: they are {gates}"
    if inputs.naming.refused or inputs.naming.push:
        return inputs.naming.refused
    return f"the tag policy pushes nothing for a {inputs.event.kind}"


@dataclass(frozen=True, slots=True)
class StepContext:
    """What steps are given to run; `run` has the results of earlier steps."""

    plan: Plan
    environment: Environment
    build: Builder
    recorder: Recorder
    signers: tuple[PrivateKey, ...] = ()

    @property
    def inputs(self) -> PlanInput:
        return self.plan.inputs

    @property
    def project(self) -> ProjectConfig:
        return self.plan.inputs.project

    @property
    def run(self) -> RunRecord:
        return self.recorder.run

    @property
    def decision(self) -> Decision:
        """What the tag policy decided before the run."""
        decision = self.inputs.naming.decision
        assert decision is not None  # a step that uses one is not run without
        return decision

    @property
    def images(self) -> Mapping[str, Reference]:
        """The repositories of the images, by target."""
        return self.project.pipeline.images

    def repository(self, target: str) -> Attachable:
        return self.environment.repositories(self.images[target])

    @property
    def git(self) -> Git:
        return Git(self.project.root, self.environment.environ)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """The outcome of a step that passed, or whose failure is `tolerated`. `reports` are digests of
    files by path; `cached`: nothing had to be done.
    """

    result: StepResult | None = None
    reports: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    tolerated: bool = False
    attempts: int = 1
    cached: bool = False
