"""The gates of a run: reports of its steps against the policy, and the verdicts on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from shipline.events import Step as Span
from shipline.gates import GateContext, GateEnvironment, image_facts, predicates, render, run_gates
from shipline.git import ChangedLines, Git, GitError, changed_lines
from shipline.oci import Descriptor
from shipline.ship.baseline import find_baseline
from shipline.ship.chain import Outcome
from shipline.ship.feeds import reports_of, without_image
from shipline.ship.names import Remote
from shipline.ship.prepare import Prepared
from shipline.ship.project import World
from shipline.ship.record import Run
from shipline.supply import PublicKey


def judge_reports(
    prepared: Prepared,
    run: Run,
    repository: Remote | None,
    world: World,
    keys: Sequence[PublicKey],
    span: Span,
) -> Outcome:
    """The verdicts as results. Raises GateRefused, GateUndecided.

    `repository` is where the image of the run is; None where none was pushed. Then gates that look
    at an image are not judged, and nothing gets a name. `keys` are those whose earlier verdicts
    count as the baseline.
    """
    project = prepared.project
    section = project.gates
    assert section is not None
    names = [] if repository is not None else [*without_image(section, project.pipeline)]
    if repository is None and not names:
        return Outcome({"statements": [], "verdicts": []}, reason="no gate goes without an image")
    verdicts = run_gates(
        section,
        _context(prepared, run, repository, world, keys),
        GateEnvironment(project.root, world.environ),
        names=names,
        reports=reports_of(section, project.pipeline, run),
    )
    span.output(render(verdicts, "text").encode())
    verdicts.require()
    statements = [{"type": one.type, "content": dict(one.content)} for one in predicates(verdicts)]
    return Outcome(
        {"statements": statements, "verdicts": [one.line for one in verdicts]},
        reason=", ".join(f"{one.gate} {one.outcome}" for one in verdicts),
    )


def _context(
    prepared: Prepared,
    run: Run,
    repository: Remote | None,
    world: World,
    keys: Sequence[PublicKey],
) -> GateContext:
    git = Git(prepared.project.root, world.environ)
    context = GateContext(
        now=datetime.fromtimestamp(world.clock(), UTC),
        revision=prepared.source.commit,
        changes=_changes(prepared, world, git),
        built_at=datetime.fromtimestamp(prepared.source.committed, UTC),
    )
    if repository is None or prepared.decision is None:
        return context
    target = _target(run)
    section = prepared.project.tags
    return replace(
        context,
        image=image_facts(repository, target),
        repository=prepared.plan.image,
        baseline=find_baseline(repository, target, prepared.decision, section, git, keys),
    )


def _target(run: Run) -> Descriptor:
    build = run.step("build")
    assert build is not None
    return Descriptor.from_json(build.results["descriptor"])


def _changes(prepared: Prepared, world: World, git: Git) -> ChangedLines | None:
    """The lines that a pull request changes."""
    base = world.event.base
    if not base:
        return None
    remote = prepared.project.tags.remote or "origin"
    for ref in (f"refs/remotes/{remote}/{base}", base):
        try:
            return changed_lines(git, ref)
        except GitError:
            continue
    return None
