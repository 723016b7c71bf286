"""What each kind of step does: the parts of the program that know how, called in their order."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from shipline.errors import UsageError
from shipline.events import Step
from shipline.git import Git, GitError, fetch_tags, read_repository
from shipline.oci import Descriptor, Reference
from shipline.ship.chain import Outcome
from shipline.ship.commands import Commands, Pushed
from shipline.ship.copying import copy_with_evidence
from shipline.ship.feeds import left_to_gates
from shipline.ship.imaging import build_request, facts_of, merge, pushed, results_of
from shipline.ship.names import (
    Published,
    decision_results,
    lost_races,
    named,
    order_of,
    placements,
    publish,
    restored,
)
from shipline.ship.plan import Kind, PlannedStep
from shipline.ship.prepare import Prepared
from shipline.ship.project import World
from shipline.ship.provenance import PREDICATE, provenance
from shipline.ship.record import DONE
from shipline.ship.runs import Recorder
from shipline.supply import PrivateKey, Statement, attest, sign
from shipline.tags import Decision, reserve
from shipline.tasks import TaskGroup


@dataclass(frozen=True, slots=True)
class Works:
    """Does the steps of one run. `signers` are read before the first step, so that a wrong
    password costs no build.
    """

    prepared: Prepared
    world: World
    recorder: Recorder
    signers: tuple[PrivateKey, ...] = ()
    git: Git = field(init=False)

    def __post_init__(self) -> None:
        git = Git(self.prepared.project.root, self.world.environ)
        object.__setattr__(self, "git", git)

    def __call__(self, planned: PlannedStep, span: Step) -> Outcome:
        return _WORKS[planned.kind](self, planned, span)

    @property
    def image(self) -> Reference:
        image = self.prepared.project.pipeline.image
        if image is None:
            raise UsageError("shipline.yaml names no image")
        return image

    @property
    def decision(self) -> Decision:
        """What the policy decided, with the names that were reserved."""
        decision = self.prepared.decision
        assert decision is not None
        record = self.recorder.run.step(Kind.RESERVE)
        if record and record.state in DONE and record.results:
            return restored(decision, record.results)
        return decision

    @property
    def target(self) -> Descriptor:
        """The image of the run, which the build step left."""
        record = self.recorder.run.step(Kind.BUILD)
        if record is None or "descriptor" not in record.results:
            raise UsageError("there is no image yet: build is not done")
        return Descriptor.from_json(record.results["descriptor"])

    def pushed(self) -> Pushed | None:
        """The image as steps see it; None before it is built, or where it was not pushed."""
        record = self.recorder.run.step(Kind.BUILD)
        if record is None or not record.results.get("platforms"):
            return None
        return pushed(self.world.repositories(self.image), self.image, self.target)

    def command(self, planned: PlannedStep, span: Step) -> Outcome:
        project, source = self.prepared.project, self.prepared.source
        step = project.pipeline.commands[planned.name]
        facts = {
            "SHIPLINE": "true",
            "SHIPLINE_RUN": self.recorder.run.id,
            "SHIPLINE_COMMIT": source.commit,
            "SHIPLINE_BRANCH": self.prepared.plan.branch,
            "SHIPLINE_ROOT": str(project.root),
        }
        commands = Commands(project.root, self.world.environ, facts, self.recorder)
        image = self.pushed() if step.after_build else None
        gated = not self.prepared.plan.step(Kind.GATES).skip
        judged = gated and left_to_gates(project.gates, step)
        return commands.run(planned.name, step, image, span, judged=judged)

    def build(self, planned: PlannedStep, span: Step) -> Outcome:
        project, naming = self.prepared.project, self.prepared.plan.naming
        decision = self.decision
        repository = self.world.repositories(self.image)
        fixed = decision.git_tag is None or not decision.git_tag.new
        facts = facts_of(decision.labels, decision.annotations, fixed=fixed)
        if naming.reuse is not None:
            target = repository.resolve(str(naming.reuse))
            results = results_of(target, pushed(repository, self.image, target))
            return Outcome({**results, "reused": True}, reason=planned.note, cached=True)
        if self.prepared.wanted.built:
            target = merge(repository, self.prepared.wanted.built, facts.annotations)
        else:
            request = build_request(
                project.pipeline.build,
                self.image,
                project.root,
                self.world.environ,
                facts,
                push=decision.push,
            )
            target = self.world.build(request, span)
        if not decision.push:
            return Outcome({"built": str(target.digest)}, reason=planned.note)
        image = pushed(repository, self.image, target)
        return Outcome(results_of(target, image), reason=planned.note)

    def gates(self, planned: PlannedStep, span: Step) -> Outcome:
        from shipline.ship.judging import judge_reports  # loads every format of reports

        return judge_reports(
            self.prepared,
            self.recorder.run,
            None if self.pushed() is None else self.world.repositories(self.image),
            self.world,
            [one.public for one in self.signers],
            span,
        )

    def reserve(self, planned: PlannedStep, span: Step) -> Outcome:
        now = int(self.world.clock())
        decision = reserve(
            self.git, self.prepared.project.tags, self.world.event, fetch=True, now=now
        )
        with suppress(GitError):  # the clone gets the tag too, for whoever looks next
            remote = read_repository(self.git, remote=self.prepared.project.tags.remote).remote
            fetch_tags(self.git, remote)
        before = self.prepared.plan.naming.git_tag
        name = decision.git_tag.name if decision.git_tag else ""
        if name != before:
            now_called = f"this one is {name}" if name else decision.version_reason
            span.warn(f"another run took {before}: {now_called}")
        return Outcome(decision_results(decision), reason=name or decision.version_reason)

    def sign(self, planned: PlannedStep, span: Step) -> Outcome:
        repository = self.world.repositories(self.image)
        added = self.sign_in(self.image)
        statements = 0
        section = self.prepared.project.pipeline.sign
        if section is not None and section.attest:
            for statement, replace in self.statements():
                done = attest(
                    repository,
                    self.target,
                    statement,
                    self.signers,
                    replace=replace,
                    clock=self.world.clock,
                )
                statements += bool(done.attached)
        return Outcome(
            {"keys": [one.public.id for one in self.signers]},
            reason=f"signatures added: {added}, attestations: {statements}",
        )

    def sign_in(self, place: Reference) -> int:
        """Sign the image under each of its coming names in one repository."""
        section = self.prepared.project.pipeline.sign
        added = 0
        for tag in self.decision.names:
            done = sign(
                self.world.repositories(place),
                self.target,
                place.tagged(tag),
                self.signers,
                annotations=section.annotations if section else {},
                clock=self.world.clock,
            )
            added += sum(len(one.attached) for one in done)
        return added

    def statements(self) -> list[tuple[Statement, bool]]:
        """What is stated about the image, and whether it replaces what was stated before."""
        run, name = self.recorder.run, self.image.name
        found: list[tuple[str, Any, bool]] = []
        gates = run.step(Kind.GATES)
        verdicts = gates.results.get("statements", ()) if gates else ()  # skipped: no results
        found += [(one["type"], one["content"], True) for one in verdicts]
        build = run.step(Kind.BUILD)
        if build is not None and not build.results.get("reused"):
            project = self.prepared.project
            predicate = provenance(
                run,
                project.pipeline.build,
                self.prepared.source.url,
                self.world.environ,
                build.finished,
            )
            found.append((PREDICATE, predicate, False))
        return [
            (Statement.about(self.target, name, kind, predicate), replace)
            for kind, predicate, replace in found
        ]

    def copy(self, planned: PlannedStep, span: Step) -> Outcome:
        source = self.world.repositories(self.image)

        def one(place: Reference) -> None:
            with span.step(f"copy to {place}", kind="push", host=place.host):
                copy_with_evidence(source, self.world.repositories(place), self.target)
                if self.signers:
                    self.sign_in(place)

        copies = self.prepared.project.pipeline.copies
        with TaskGroup() as group:
            for place in copies:
                group.start(one, place)
        return Outcome({"copies": [str(place) for place in copies]})

    def publish(self, planned: PlannedStep, span: Step) -> Outcome:
        places = (self.image, *self.prepared.project.pipeline.copies)
        decision, target = self.decision, self.target
        older = order_of(self.git, self.prepared.project.tags.remote, fetch=True)
        for place in places:
            placements(self.world.repositories(place), decision, older)
        names: list[str] = []
        for place in places:
            repository = self.world.repositories(place)
            done = publish(repository, target, decision, older)
            self.tell(place, done, span)
            lost = lost_races(repository, target, done.given)
            for tag in lost:
                span.warn(f"{place}:{tag} was moved by another run meanwhile")
            names += named(place, (tag for tag in done.names if tag not in lost))
        return Outcome({"names": names, "version": decision.version}, reason=", ".join(names))

    def tell(self, place: Reference, done: Published, span: Step) -> None:
        for name in named(place, done.given):
            span.output(f"{name}\n".encode())
        for name in named(place, done.there):
            span.output(f"{name} was there\n".encode())
        for tag, reason in done.kept:
            span.output(f"{place}:{tag} stays: {reason}\n".encode())


_WORKS = {
    Kind.COMMAND: Works.command,
    Kind.BUILD: Works.build,
    Kind.GATES: Works.gates,
    Kind.RESERVE: Works.reserve,
    Kind.SIGN: Works.sign,
    Kind.COPY: Works.copy,
    Kind.PUBLISH: Works.publish,
}
