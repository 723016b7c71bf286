"""The step `gates`: the reports of the steps are judged by the gates of the project.

They compare with the measurements of the previous image: the one with a tag that will move, or that
of the last version. Its measurements are in the verdicts attached to it; only those signed with our
own keys count, so that nothing is compared without a key.

A gate that blocks only in environments to which images are promoted from others does not stop the
run: its verdict is attested as it is, and the promotion is refused there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
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
from shipline.ship.record import RunRecord, as_json, by_target
from shipline.ship.reports import gates_of, reports_by_gate
from shipline.ship.section import Pipeline
from shipline.ship.steps.build import pushed_images
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.events import Attribute
    from shipline.events import Step as Span
    from shipline.gates import Baseline, GateContext, GatesSection, Outcome, Verdict, Verdicts
    from shipline.supply import Attachable


@dataclass(frozen=True, slots=True)
class GateVerdicts:
    """One line for each gate, and the statements to attach to the image of each target: predicates
    by type.
    """

    verdicts: tuple[str, ...] = ()
    statements: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        found = {
            name: [{"type": kind, "content": dict(content)} for kind, content in statements]
            for name, statements in self.statements.items()
        }
        return {"statements": by_target(found) or [], "verdicts": [*self.verdicts]}


def _decode(results: Mapping[str, Any]) -> GateVerdicts:
    found = results["statements"]
    targets = {"": found} if isinstance(found, list) else found
    statements = {
        name: [(statement["type"], statement["content"]) for statement in several]
        for name, several in targets.items()
    }
    return GateVerdicts(tuple(results["verdicts"]), statements)


def _steps(inputs: PlanInput) -> Iterator[PipelineStep]:
    gates = inputs.project.gates
    yield PipelineStep(
        name="gates",
        kind="gates",
        title="judge the reports",
        command="shipline gate",
        compared=[as_json(gates), later_environments(inputs.project)],
        run=_run,
        needs=(*inputs.pipeline.commands, "build"),
        skip="" if gates else "shipline.yaml has no gates",
        note=_note(inputs),
    )


def _note(inputs: PlanInput) -> str:
    """The gates that a run without an image cannot judge."""
    gates, pipeline = inputs.project.gates, inputs.pipeline
    built = pipeline.images and not inputs.selection.left_out("build") and inputs.naming.push
    names = () if gates is None or built else tuple(_of_images(gates, pipeline))
    return f"not judged, for want of an image: {', '.join(names)}" if names else ""


def _missing(project: ProjectConfig) -> Iterator[str]:
    for file in project.gates.waiver_files if project.gates else ():
        if not (project.root / file).is_file():
            yield f"gates.waiver-files: there is no file {file}"


GATES = StepKind(name="gates", steps=_steps, decode=_decode, missing=_missing, uses_decision=False)


def _run(context: StepContext, span: Span) -> StepOutcome:
    """Raises GateRefused, GateUndecided. All gates judge each image; those that inspect an image
    are reported as not judged if none was pushed; then nothing is tagged.
    """
    from shipline.gates import GateEnvironment, predicates, render, run_gates

    project = context.project
    assert project.gates is not None
    images = pushed_images(context.run)
    targets = [*images] or [""]
    left_out = () if images else tuple(_of_images(project.gates, project.pipeline))
    not_judged = tuple(f"{name}: not judged: no image was pushed" for name in left_out)
    if left_out:
        span.warn(f"no image was pushed: {', '.join(left_out)} cannot be judged")
    names = [name for name, _, _ in project.gates.gates() if name not in left_out]
    if not names:
        return StepOutcome(result=GateVerdicts(not_judged), reason="all gates need an image")
    judged = {
        name: run_gates(
            project.gates,
            _gate_context(context, name),
            GateEnvironment(
                project.root, context.environment.environ, run_commands=name == targets[0]
            ),
            names=names if left_out else (),
            reports=reports_by_gate(project.gates, project.pipeline, context.run, name),
        )
        for name in targets
    }
    later = later_environments(project)
    verdicts = joined({name: _deferred(found, later) for name, found in judged.items()})
    for verdict in verdicts:
        if verdict.later:
            span.warn(verdict.line)
    span.output(render(verdicts, "text").encode())
    span.note(**_facts(judged))
    verdicts.require()
    statements = {
        name: [(one.type, dict(one.content)) for one in predicates(found)]
        for name, found in judged.items()
    }
    return StepOutcome(
        result=GateVerdicts((*(verdict.line for verdict in verdicts), *not_judged), statements),
        reason=", ".join(
            [
                *(_in_short(verdict) for verdict in verdicts),
                *(f"{name} not judged" for name in left_out),
            ]
        ),
    )


def later_environments(project: ProjectConfig) -> dict[str, list[str]]:
    """The environments in which alone a gate blocks, by its name: only of gates that block in none
    of the environments that images reach first.
    """
    found: dict[str, list[str]] = {}
    for gate, patterns in project.gates.environments().items() if project.gates else ():
        names = [
            name
            for name in project.environments
            if any(pattern.matches(name) for pattern in patterns)
        ]
        if names and all(project.environments[name].after for name in names):
            found[gate] = names
    return found


def _deferred(verdicts: Verdicts, later: Mapping[str, Sequence[str]]) -> Verdicts:
    """The verdicts as they count for this run."""
    return replace(
        verdicts,
        verdicts=tuple(
            replace(one, later=tuple(later.get(one.gate, ()))) if one.blocks else one
            for one in verdicts
        ),
    )


def _in_short(verdict: Verdict) -> str:
    where = f" (blocks in {', '.join(verdict.later)})" if verdict.later else ""
    return f"{verdict.gate} {verdict.outcome}{where}"


def _facts(judged: Mapping[str, Verdicts]) -> dict[str, Attribute]:
    """What metrics say of the verdicts: the worst outcome of each gate, and how many
    vulnerabilities were found in the images.
    """
    from shipline.gates.reports import Severity, Vulnerabilities
    from shipline.gates.verdict import worst

    each = [verdict for verdicts in judged.values() for verdict in verdicts]
    outcomes: dict[str, list[Outcome]] = {}
    for verdict in each:
        outcomes.setdefault(verdict.gate, []).append(verdict.outcome)
    facts: dict[str, Attribute] = {
        f"gate.{gate}": str(worst(several)) for gate, several in outcomes.items()
    }
    scans = [report.content for verdict in each for report in verdict.scans]
    found = {
        (one.id, one.package, one.version): (one.severity, bool(one.fixed))
        for scan in scans
        if isinstance(scan, Vulnerabilities)
        for one in scan.vulnerabilities
    }
    counts = Counter(found.values())
    for severity, fixable in product(Severity, (True, False)) if scans else ():
        name = f"vulnerabilities.{severity.name.lower()}.{'yes' if fixable else 'no'}"
        facts[name] = counts[severity, fixable]
    return facts


def joined(judged: Mapping[str, Verdicts]) -> Verdicts:
    """The verdicts on all images, by target, as one: those that differ name their target."""
    first, *others = judged.values()
    if not others:
        return first
    verdicts: list[Verdict] = []
    for several in zip(*judged.values(), strict=True):
        if all(one == several[0] for one in several):
            verdicts.append(several[0])
        else:
            named = zip(judged, several, strict=True)
            verdicts += [replace(one, gate=f"{one.gate} ({name})") for name, one in named]
    shared = [one for one in first.warnings if all(one in other.warnings for other in others)]
    images = ", ".join(found.image for found in judged.values())
    return replace(first, verdicts=tuple(verdicts), image=images, warnings=tuple(shared))


def gate_verdicts(run: RunRecord) -> GateVerdicts:
    """The verdicts of a run; empty if nothing was judged."""
    return run.result("gates", GateVerdicts) or GateVerdicts()


def _of_images(section: GatesSection, pipeline: Pipeline) -> Iterator[str]:
    """The gates that inspect an image or read reports of steps that do."""
    after = {
        gate for step in pipeline.commands.values() if step.after_build for gate in gates_of(step)
    } | ({"sbom"} if any(build.sbom for build in pipeline.builds.values()) else set())
    for name, kind, rules in section.gates():
        if not rules.skip and (kind == "image" or name in after):
            yield name


def _gate_context(context: StepContext, name: str) -> GateContext:
    """What gates may use besides reports to judge the image of a target."""
    from shipline.gates import GateContext, image_facts

    inputs = context.inputs
    known = GateContext(
        now=datetime.fromtimestamp(context.environment.clock(), UTC),
        revision=inputs.work_tree.commit,
        changes=_changes(context),
        built_at=datetime.fromtimestamp(inputs.work_tree.committed, UTC),
    )
    images = pushed_images(context.run)
    if name not in images:
        return known
    target, repository = images[name].descriptor, context.repository(name)
    others = [one for other, one in images.items() if other != name]
    return replace(
        known,
        image=image_facts(repository, target),
        repository=str(context.images[name]),
        others=frozenset(str(digest) for one in others for digest in one.digests),
        baseline=_baseline(context, repository, target),
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


def _baseline(context: StepContext, repository: Attachable, target: Descriptor) -> Baseline | None:
    """The verdicts on the image before `target`; None without an image or a statement."""
    from shipline.gates import SUMMARY_TYPE, Baseline
    from shipline.supply import examine_attestations

    keys = [signer.public for signer in context.signers]
    for name in _earlier_tags(context) if keys else ():
        try:
            before = repository.resolve(name)
        except NotFound:
            continue
        if before.digest == target.digest:
            continue
        proven = examine_attestations(repository, before, keys, SUMMARY_TYPE).proven
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
