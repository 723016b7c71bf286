"""The step `gates`: the reports of the steps are judged by the gates of the project.

They compare with the measurements of the previous image: the one with a tag that will move, or that
of the last version. Its measurements are in the verdicts attached to it; only those signed with our
own keys count, so that nothing is compared without a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shipline.errors import NotFound
from shipline.git import ChangedLines, GitError, changed_lines, read_repository, tags
from shipline.oci import Descriptor
from shipline.ship.plan import (
    PipelineStep,
    PlanInput,
    ProjectConfig,
    StepContext,
    StepKind,
    StepOutcome,
)
from shipline.ship.record import RunRecord, as_json
from shipline.ship.reports import gates_of, reports_by_gate
from shipline.ship.section import Pipeline
from shipline.ship.steps.build import pushed_image, require_image
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.events import Step as Span
    from shipline.gates import Baseline, GateContext, GatesSection


@dataclass(frozen=True, slots=True)
class GateVerdicts:
    """One line for each gate, and the statements to attach: predicates by type."""

    verdicts: tuple[str, ...] = ()
    statements: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    def to_json(self) -> dict[str, Any]:
        statements = [{"type": kind, "content": dict(content)} for kind, content in self.statements]
        return {"statements": statements, "verdicts": [*self.verdicts]}


def _decode(results: Mapping[str, Any]) -> GateVerdicts:
    statements = tuple(
        (statement["type"], statement["content"]) for statement in results["statements"]
    )
    return GateVerdicts(tuple(results["verdicts"]), statements)


def _steps(inputs: PlanInput) -> Iterator[PipelineStep]:
    gates = inputs.project.gates
    yield PipelineStep(
        name="gates",
        kind="gates",
        title="judge the reports",
        command="shipline gate",
        compared=as_json(gates),
        run=_run,
        needs=(*inputs.pipeline.commands, "build"),
        skip="" if gates else "shipline.yaml has no gates",
    )


def _missing(project: ProjectConfig) -> Iterator[str]:
    for file in project.gates.waiver_files if project.gates else ():
        if not (project.root / file).is_file():
            yield f"gates.waiver-files: there is no file {file}"


GATES = StepKind(name="gates", steps=_steps, decode=_decode, missing=_missing, uses_decision=False)


def _run(context: StepContext, span: Span) -> StepOutcome:
    """Raises GateRefused, GateUndecided. Gates that inspect an image are left out if none was
    pushed; then nothing is tagged.
    """
    from shipline.gates import GateEnvironment, predicates, render, run_gates

    project = context.project
    assert project.gates is not None
    names: list[str] = []
    if pushed_image(context.run) is None:
        names = [*_without_image(project.gates, project.pipeline)]
        if not names:
            return StepOutcome(result=GateVerdicts(), reason="all gates need an image")
    verdicts = run_gates(
        project.gates,
        _gate_context(context),
        GateEnvironment(project.root, context.environment.environ),
        names=names,
        reports=reports_by_gate(project.gates, project.pipeline, context.run),
    )
    span.output(render(verdicts, "text").encode())
    verdicts.require()
    statements = tuple(
        (predicate.type, dict(predicate.content)) for predicate in predicates(verdicts)
    )
    return StepOutcome(
        result=GateVerdicts(tuple(verdict.line for verdict in verdicts), statements),
        reason=", ".join(f"{verdict.gate} {verdict.outcome}" for verdict in verdicts),
    )


def gate_verdicts(run: RunRecord) -> GateVerdicts:
    """The verdicts of a run; empty if nothing was judged."""
    return run.result("gates", GateVerdicts) or GateVerdicts()


def _without_image(section: GatesSection, pipeline: Pipeline) -> Iterator[str]:
    """The gates that neither inspect an image nor read reports of steps that do."""
    after = {
        gate for step in pipeline.commands.values() if step.after_build for gate in gates_of(step)
    } | ({"sbom"} if pipeline.build.sbom else set())
    for name, kind, _ in section.gates():
        if kind != "image" and name not in after:
            yield name


def _gate_context(context: StepContext) -> GateContext:
    """What gates may use besides reports."""
    from shipline.gates import GateContext, image_facts

    inputs = context.inputs
    known = GateContext(
        now=datetime.fromtimestamp(context.environment.clock(), UTC),
        revision=inputs.work_tree.commit,
        changes=_changes(context),
        built_at=datetime.fromtimestamp(inputs.work_tree.committed, UTC),
    )
    if pushed_image(context.run) is None:
        return known
    target = require_image(context.run)
    return replace(
        known,
        image=image_facts(context.repository, target),
        repository=str(inputs.pipeline.image),
        baseline=_baseline(context, target),
    )


def _changes(context: StepContext) -> ChangedLines | None:
    """The lines that a pull request changes."""
    base = context.environment.event.base
    if not base:
        return None
    remote = context.project.tags.remote or "origin"
    for ref in (f"refs/remotes/{remote}/{base}", base):
        try:
            return changed_lines(context.git, ref)
        except GitError:
            continue
    return None


def _baseline(context: StepContext, target: Descriptor) -> Baseline | None:
    """The verdicts on the image before `target`; None without an image or a statement."""
    from shipline.gates import SUMMARY_TYPE, Baseline
    from shipline.supply import examine_attestations

    keys = [signer.public for signer in context.signers]
    for name in _earlier_tags(context) if keys else ():
        try:
            before = context.repository.resolve(name)
        except NotFound:
            continue
        if before.digest == target.digest:
            continue
        proven = examine_attestations(context.repository, before, keys, SUMMARY_TYPE).proven
        if proven:
            return Baseline.newest(attestation.statement.predicate for attestation in proven)
    return None


def _earlier_tags(context: StepContext) -> Iterator[str]:
    """The tags that the previous image may have."""
    from shipline.tags import RepositoryClone, last_version

    git, section, decision = context.git, context.project.tags, context.decision
    yield from (tag.name for tag in decision.tags if tag.mutable)
    clone = RepositoryClone(git, read_repository(git, remote=section.remote), tags(git))
    parents = git.text("log", "-1", "--format=%P", decision.commit).split()
    if parents and (last := last_version(clone, section, parents[0])):
        yield last.replace("/", "-")
        yield last.removeprefix(section.tag_prefix)
