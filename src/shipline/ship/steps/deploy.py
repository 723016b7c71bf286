"""The steps `deploy-ENVIRONMENT`: the published images go to one environment after another, as far
as the rules of each let them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from shipline.globs import glob
from shipline.oci import Reference
from shipline.ship.plan import (
    PipelineStep,
    PlanInput,
    ProjectConfig,
    StepContext,
    StepKind,
    StepOutcome,
)
from shipline.ship.record import RunRecord, as_json
from shipline.ship.section import deploy_step
from shipline.ship.steps.build import pushed_images
from shipline.ship.steps.gates import gate_verdicts
from shipline.ship.steps.publish import names_of
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.deliver.environments import EnvironmentSection
    from shipline.deliver.gitops import Deployment
    from shipline.events import Step as Span


@dataclass(frozen=True, slots=True)
class DeployedImages:
    """The images that an environment has, the commit of its repository that set them, empty if it
    had them, and the verdict on the environment with them, empty if there was one before.
    """

    environment: str
    images: tuple[str, ...]
    commit: str
    verdict: str = ""

    def __str__(self) -> str:
        how = self.commit or "which it had already"
        return f"{self.environment}: {', '.join(self.images)}, {how}"

    def to_json(self) -> dict[str, Any]:
        return {
            "environment": self.environment,
            "images": [*self.images],
            "commit": self.commit,
            "verdict": self.verdict,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        images = tuple(map(str, value["images"]))
        return cls(value["environment"], images, value["commit"], value["verdict"])


def _steps(inputs: PlanInput) -> Iterator[PipelineStep]:
    environments, selection = inputs.project.environments, inputs.selection
    within = {name for name in environments if _is_reached(inputs.project, name, selection.until)}
    published = selection.left_out("publish")
    for name, section in environments.items():
        reasons = (
            f"nothing is deployed without tags: publish is {published}" if published else "",
            "uncommitted changes are never deployed" if inputs.work_tree.dirty else "",
            "" if name in within else f"the run ends at --until {selection.until}",
            _elsewhere(section, inputs),
        )
        came_from = f" --from {section.after}" if section.after else ""
        yield PipelineStep(
            name=deploy_step(name),
            kind="deploy",
            title=f"deploy to {name}",
            command=f"shipline {'promote' if section.after else 'deploy'}{came_from} --env {name}",
            compared=as_json(section.gitops),
            run=partial(_deploy, name),
            needs=(deploy_step(section.after) if section.after else "publish",),
            skip=next(filter(None, reasons), ""),
            gives_names=True,
        )


def _is_reached(project: ProjectConfig, name: str, until: str) -> bool:
    """Whether a run that ends at an environment goes through this one."""
    while until and until != name:
        section = project.environments.get(until)
        until = section.after if section else ""
        if not until:
            return False
    return True


def _elsewhere(section: EnvironmentSection, inputs: PlanInput) -> str:
    """Why commits of this ref do not go to the environment; empty if they do."""
    event, branch = inputs.event, inputs.branch
    if event.kind == "pull-request":
        return "a pull request is not deployed"
    if event.tag:
        return ""
    if section.branches:
        wanted = any(glob(pattern).fullmatch(branch) for pattern in section.branches)
        return "" if wanted else f"it is for the branches {', '.join(section.branches)}"
    if not event.default_branch:
        return "the default branch is not known: set `branches`, or tags.default-branch"
    wanted = branch == event.default_branch
    return "" if wanted else f"{branch or 'this ref'} is not the branch {event.default_branch}"


def _missing(project: ProjectConfig) -> Iterator[str]:
    """Gates that checks name and files of authorities that do not exist."""
    known = {name for name, _, _ in project.gates.gates()} if project.gates else set[str]()
    for name, section in project.environments.items():
        yield from section.unknown_gates(name, known)
        source = section.health and (section.health.argocd or section.health.url)
        if source and source.ca and not (project.root / source.ca).is_file():
            yield f"environments.{name}.health: there is no file {source.ca}"


DEPLOY = StepKind(
    name="deploy",
    steps=_steps,
    missing=_missing,
    decode=DeployedImages.from_json,
    names=lambda project: map(deploy_step, project.environments),
)


def _deploy(name: str, context: StepContext, span: Span) -> StepOutcome:
    from shipline.deliver.promotion import PromotionRequest  # slow to import, as is this
    from shipline.deliver.rollout import roll_out

    delivery = context.environment.delivery
    assert delivery is not None  # a project with environments has one
    trusted = delivery.trusted(published_images(context.run, context.images))
    chosen = of_run(context.run, delivery.deployment(name, trusted))
    images = tuple(map(str, chosen.images))
    span.output("".join(f"{image}\n" for image in images).encode())
    request = PromotionRequest(environment=name, chosen=chosen, automatic=True)
    done = roll_out(delivery, request, span)
    verdict = done.verdict.grade if done.verdict else ""
    commit = done.deployed.commit
    result = DeployedImages(name, images, commit, verdict)
    reason = commit or "it has these images already"
    return StepOutcome(result=result, reason=reason, cached=not (commit or verdict))


def published_images(run: RunRecord, places: Mapping[str, Reference]) -> Mapping[str, Reference]:
    """The images of a run by target, with digests, and with a tag if they got one in `places`."""
    names = {name.name: name for name in map(Reference.parse, reversed(names_of(run)))}
    return {
        target: names.get(places[target].name, places[target]).at(image.digest)
        for target, image in pushed_images(run).items()
        if target in places
    }


def of_run(run: RunRecord, deployment: Deployment) -> Deployment:
    """The deployment with what is known of the run that made its images."""
    lines = gate_verdicts(run).verdicts
    gates = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    return replace(deployment, commit=run.commit, run=run.id, gates=gates)


def deployments_of(run: RunRecord) -> list[DeployedImages]:
    """What the run deployed, in order."""
    return [step.result for step in run.steps if isinstance(step.result, DeployedImages)]
