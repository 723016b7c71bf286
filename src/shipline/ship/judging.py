"""The gates of a run: reports of its steps against the policy, and the verdicts on record."""

from __future__ import annotations

from datetime import UTC, datetime

from shipline.events import Step as Span
from shipline.git import Changes, Git, GitError, changed_lines
from shipline.oci import Descriptor
from shipline.policy.gates import (
    Context,
    Verdicts,
    Workplace,
    image_facts,
    predicates,
    render,
    run_gates,
)
from shipline.ship.chain import Outcome
from shipline.ship.feeds import reports_of, without_image
from shipline.ship.names import Remote
from shipline.ship.prepare import Prepared
from shipline.ship.project import World
from shipline.ship.record import Run


def judge_reports(
    prepared: Prepared, run: Run, repository: Remote | None, world: World, span: Span
) -> Outcome:
    """The verdicts as results. Raises GateRefused, GateUndecided.

    `repository` is where the image of the run is; None where none was pushed. Then gates that look
    at an image are not judged, and nothing gets a name.
    """
    project, plan = prepared.project, prepared.plan
    section = project.gates
    assert section is not None
    names = [] if repository is not None else [*without_image(section, project.pipeline)]
    if repository is None and not names:
        return Outcome({"statements": [], "verdicts": []}, reason="no gate goes without an image")
    now = datetime.fromtimestamp(world.clock(), UTC)
    context = Context(
        now=now,
        revision=prepared.source.commit,
        image=None if repository is None else image_facts(repository, _target(run)),
        repository=plan.image if repository is not None else "",
        changes=_changes(prepared, world),
        built_at=datetime.fromtimestamp(prepared.source.committed, UTC),
    )
    verdicts = run_gates(
        section,
        context,
        Workplace(project.root, world.environ),
        names=names,
        reports=reports_of(section, project.pipeline, run),
    )
    span.output(render(verdicts, "text").encode())
    verdicts.require()
    return Outcome(
        {
            "statements": [
                {"type": one.type, "content": dict(one.content)} for one in predicates(verdicts)
            ],
            "verdicts": _lines(verdicts),
        },
        reason=", ".join(f"{one.gate} {one.outcome}" for one in verdicts),
    )


def _target(run: Run) -> Descriptor:
    build = run.step("build")
    assert build is not None
    return Descriptor.from_json(build.results["descriptor"])


def _changes(prepared: Prepared, world: World) -> Changes | None:
    """The lines that a pull request changes."""
    base = world.event.base
    if not base:
        return None
    git = Git(prepared.project.root, world.environ)
    remote = prepared.project.tags.remote or "origin"
    for ref in (f"refs/remotes/{remote}/{base}", base):
        try:
            return changed_lines(git, ref)
        except GitError:
            continue
    return None


def _lines(verdicts: Verdicts) -> list[str]:
    return [one.line for one in verdicts]
