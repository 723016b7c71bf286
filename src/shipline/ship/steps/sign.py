"""The steps `sign` and `copy`: signatures, attestations, and copies in registries and regions.

An image is signed under each name that it will get, before it is tagged, and in each repository.
The provenance is that of SLSA, version 1 (slsa.dev/spec/v1.0/provenance).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipline import __version__
from shipline.oci import Descriptor, Reference
from shipline.ship.plan import (
    PipelineStep,
    PlanInput,
    ProjectConfig,
    StepContext,
    StepKind,
    StepOutcome,
)
from shipline.ship.record import RunRecord, as_json
from shipline.ship.section import Build, copy_step
from shipline.ship.steps.build import pushed_images, require_images, sboms
from shipline.ship.steps.gates import gate_verdicts
from shipline.ship.steps.publish import reserved_decision
from shipline.supply import (
    STATEMENT_LIMIT,
    Identity,
    Statement,
    at_the_source,
    attest,
    copy_with_evidence,
    sign,
    verify,
)
from shipline.tasks import TaskGroup
from shipline.units import rfc3339

if TYPE_CHECKING:
    from shipline.events import Step as Span

PREDICATE = "https://slsa.dev/provenance/v1"
_BUILD_TYPE = "https://shipline.dev/ship/v1"
_LOCAL = "https://shipline.dev/builder/local"
_EXACT = Identity.parse("exact")
_CREDENTIALS = re.compile(r"://[^/]*@")  # in the URL of a remote


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The identifiers of the keys that an image was signed with."""

    keys: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"keys": [*self.keys]}


@dataclass(frozen=True, slots=True)
class Copies:
    """The repositories that an image was copied to."""

    copies: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"copies": [*self.copies]}


def _sign_steps(inputs: PlanInput) -> Iterator[PipelineStep]:
    section = inputs.pipeline.sign
    skip = "uncommitted changes are never signed" if inputs.work_tree.dirty else ""
    key = section.key if section else ""
    yield PipelineStep(
        name="sign",
        kind="sign",
        title="sign and attest",
        command="\n".join(
            f"shipline sign --key {key} {image}@DIGEST" for image in inputs.pipeline.images.values()
        )
        if key
        else "",
        compared=as_json(section),
        run=_sign,
        needs=("reserve",),
        skip=skip if section else "shipline.yaml names no key",
        gives_names=True,
    )


def _copy_steps(inputs: PlanInput) -> Iterator[PipelineStep]:
    builds = inputs.pipeline.builds.values()
    copies = [str(copy) for build in builds for copy in build.copies]
    yield PipelineStep(
        name="copy",
        kind="copy",
        title="copy to other registries",
        command="; ".join(
            f"copy {build.image}@DIGEST to {copy}" for build in builds for copy in build.copies
        ),
        compared=copies,
        run=_copy,
        needs=("sign",),
        skip="" if copies else "shipline.yaml names no copies",
        gives_names=True,
        repeated=True,
    )
    for region, places in inputs.pipeline.in_regions.items():
        images = inputs.pipeline.images
        yield PipelineStep(
            name=copy_step(region),
            kind="copy",
            title=f"copy to the region {region}",
            command="; ".join(
                f"copy {images[name]}@DIGEST to {place}" for name, place in places.items()
            ),
            compared=[str(place) for place in places.values()],
            run=partial(_copy_to_region, region),
            needs=("sign",),
            deferrable=inputs.pipeline.regions.wait != "all",
            gives_names=True,
            repeated=True,
        )


def _copy_names(project: ProjectConfig) -> Iterator[str]:
    yield "copy"
    yield from map(copy_step, project.pipeline.regions.registries)


def _missing_key(project: ProjectConfig) -> Iterator[str]:
    key = project.pipeline.sign.key if project.pipeline.sign else ""
    if key and "://" not in key and not (project.root / key).is_file():
        yield f"sign.key: there is no file {key}; `shipline key generate` creates one"


SIGN = StepKind(
    name="sign",
    steps=_sign_steps,
    decode=lambda results: SigningKeys(tuple(results["keys"])),
    missing=_missing_key,
)
COPY = StepKind(
    name="copy",
    steps=_copy_steps,
    decode=lambda results: Copies(tuple(results["copies"])),
    names=_copy_names,
)


def _sign(context: StepContext, span: Span) -> StepOutcome:
    section, added, attached = context.project.pipeline.sign, 0, 0
    for name, image in context.images.items():
        added += sign_in(context, name, image)
        for target, statement, replaces in (
            _statements(context, name, span) if section and section.attest else ()
        ):
            done = attest(
                context.repository(name),
                target,
                statement,
                context.signers,
                replace=replaces,
                clock=context.environment.clock,
            )
            attached += bool(done.attached)
    return StepOutcome(
        result=SigningKeys(tuple(signer.public.id for signer in context.signers)),
        reason=f"signatures added: {added}, attestations: {attached}",
    )


def _copy(context: StepContext, span: Span) -> StepOutcome:
    builds = context.project.pipeline.builds
    return _copy_to(
        context,
        [(name, place) for name in require_images(context.run) for place in builds[name].copies],
        span,
    )


def _copy_to_region(region: str, context: StepContext, span: Span) -> StepOutcome:
    """Copy the images, and verify there that they are signed with all keys under all names. Raises
    SignatureRefused.
    """
    places = context.project.pipeline.in_regions[region]
    outcome = _copy_to(context, list(places.items()), span)
    keys = [signer.public for signer in context.signers]
    for name, target in require_images(context.run).items():
        there = at_the_source(context.environment.repositories(places[name]))
        for tag in reserved_decision(context).names if keys else ():
            verify(
                there, target, places[name].tagged(tag), keys, identity=_EXACT, threshold=len(keys)
            )
    return outcome


def _copy_to(
    context: StepContext, copies: Sequence[tuple[str, Reference]], span: Span
) -> StepOutcome:
    """Copy images by digest, with everything that refers to them, and sign them there."""
    images = require_images(context.run)

    def copy(name: str, place: Reference) -> None:
        with span.step(f"copy to {place}", kind="push", host=place.host):
            destination = context.environment.repositories(place)
            copy_with_evidence(context.repository(name), destination, images[name])
            if context.signers:
                sign_in(context, name, place)

    with TaskGroup() as group:
        for name, place in copies:
            group.start(copy, name, place)
    return StepOutcome(result=Copies(tuple(str(place) for _, place in copies)))


def sign_in(context: StepContext, target: str, place: Reference) -> int:
    """Sign the image of a target in one repository under each name that it will get; returns the
    number of added signatures.
    """
    section, image = context.project.pipeline.sign, require_images(context.run)[target]
    added = 0
    for tag in reserved_decision(context).names:
        done = sign(
            context.environment.repositories(place),
            image,
            place.tagged(tag),
            context.signers,
            annotations=section.annotations if section else {},
            clock=context.environment.clock,
        )
        added += sum(len(signed.attached) for signed in done)
    return added


def _statements(
    context: StepContext, target_name: str, span: Span
) -> Iterator[tuple[Descriptor, Statement, bool]]:
    """The statements, each with the image that it is about, all of it or that of one platform, and
    whether it replaces earlier ones.
    """
    image, record = pushed_images(context.run)[target_name], context.run.step("build")
    target, name = image.descriptor, context.images[target_name].name
    build = context.project.pipeline.builds[target_name]
    for kind, predicate in gate_verdicts(context.run).statements.get(target_name, ()):
        yield target, Statement.about(target, name, kind, predicate), True
    if record is not None and not image.reused:
        predicate = provenance(
            context.run,
            build,
            context.inputs.work_tree.url,
            context.environment.environ,
            record.finished,
        )
        yield target, Statement.about(target, name, PREDICATE, predicate), False
    if build.sbom:
        for part, raw in sboms(context.repository(target_name), target):
            if len(raw) > STATEMENT_LIMIT:
                span.warn(f"the packages of {part.platform} are too many to be signed")
            else:
                yield part.plain, Statement.parse(raw), True


def provenance(
    run: RunRecord, build: Build, url: str, environ: Mapping[str, str], finished: float
) -> dict[str, Any]:
    """The predicate: what was built from which commit, by whom and when.

    Build arguments are listed without values: some contain secrets.
    """
    source = f"git+{_CREDENTIALS.sub('://', url)}" if url else f"git+file:{Path(run.root).name}"
    dependency = {"uri": source, "digest": {"gitCommit": run.commit}}
    if run.branch:
        dependency["uri"] = f"{source}@refs/heads/{run.branch}"
    return {
        "buildDefinition": {
            "buildType": _BUILD_TYPE,
            "externalParameters": {
                "source": dependency,
                "configuration": {"path": run.file, "digest": {"sha256": _sha256(run)}},
                "build": {
                    "context": build.context,
                    "dockerfile": build.file or "Dockerfile",
                    "target": build.target or "",
                    "platforms": [str(platform) for platform in build.platforms],
                    "arguments": sorted(build.args),
                },
            },
            "internalParameters": {"steps": _steps(run)},
            "resolvedDependencies": [dependency],
        },
        "runDetails": {
            "builder": {"id": _builder(environ), "version": {"shipline": __version__}},
            "metadata": {
                "invocationId": _invocation(run, environ),
                "startedOn": rfc3339(run.started),
                "finishedOn": rfc3339(finished),
            },
        },
    }


def _steps(run: RunRecord) -> dict[str, str]:
    return {step.name: step.state.value for step in run.steps if step.kind == "command"}


def _sha256(run: RunRecord) -> str:
    path = Path(run.root) / run.file
    return hashlib.sha256(path.read_bytes()).hexdigest() if run.file and path.is_file() else ""


def _builder(environ: Mapping[str, str]) -> str:
    server = environ.get("GITHUB_SERVER_URL", "")
    if workflow := environ.get("GITHUB_WORKFLOW_REF", ""):
        return f"{server}/{workflow}"
    if project := environ.get("CI_PROJECT_URL", ""):
        return f"{project}/-/runners/{environ.get('CI_RUNNER_ID', '')}"
    return _LOCAL


def _invocation(run: RunRecord, environ: Mapping[str, str]) -> str:
    if number := environ.get("GITHUB_RUN_ID", ""):
        place = f"{environ.get('GITHUB_SERVER_URL', '')}/{environ.get('GITHUB_REPOSITORY', '')}"
        return f"{place}/actions/runs/{number}/attempts/{environ.get('GITHUB_RUN_ATTEMPT', '1')}"
    return environ.get("CI_JOB_URL", "") or run.id
