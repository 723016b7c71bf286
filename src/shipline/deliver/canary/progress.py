"""A canary from its first weight to its promotion or rollback. Its state is in git alone:

    weight 1/3 -> weight 2/3 -> weight 3/3 -> promote 3/3 -> weight 0, verify
        `-> rollback, hold
        `-> weight with a reason: frozen

A commit is decided from the history that it is pushed to, and decided again after each lost race:
of two processes with the same canary one commits, and the other sees that and stops. `Shipline-Run`
names the process that continues a canary. That process counts as gone after it has committed
nothing for the time that the step is held and a margin; on the same machine, once its lock is free.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from shipline.deliver.canary.analysis import (
    CanaryVerdict,
    MetricResult,
    StepVerdict,
    measure_all,
    watch,
)
from shipline.deliver.canary.queries import query_client
from shipline.deliver.canary.section import CanarySection, CanaryStep
from shipline.deliver.canary.state import Position, newest, position
from shipline.deliver.canary.weights import giving, left, reset, set_weight
from shipline.deliver.gitops import (
    RECORDS,
    Action,
    Deployment,
    GitOpsSection,
    Superseded,
    TreeEdit,
    changed_by_hand,
    deployed,
    held,
    history,
    image_edits,
    record,
)
from shipline.deliver.windows import closed
from shipline.errors import ConfigError, ShiplineError, UsageError, Waiting
from shipline.git import RemoteBranch, RemoteUnreachable
from shipline.oci import Reference
from shipline.registry.http import HttpClient
from shipline.tasks import exclusively, sleep
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.deliver.delivery import Delivery
    from shipline.deliver.environments import EnvironmentSection

_MARGIN_S = 60.0  # how late the next commit may be before its process counts as gone
_CHECK_INTERVAL_S = 10.0  # between two reads of the history during a step
_RETRY_PAUSE_S = 2.0  # before another attempt while the repository cannot be reached


class CanaryFailed(ShiplineError):
    """The new version was rolled back, or its weight is frozen."""

    code = "canary-failed"
    title = "canary failed"
    exit_code = 9


class CanaryRuns(Waiting):
    """Another process continues the canary of this image, or there is one of another image."""

    code = "canary-runs"


class _Held(Exception):
    """The images are held, since a person said so or a canary of them failed before."""


def _shown(made: Deployment) -> str:
    return made.subject + (f", step {made.step}" if made.step else "")


def _closed(section: EnvironmentSection, now_s: float) -> str:
    """The freeze or window of an environment that allows no changes now; empty if none does."""
    now = datetime.fromtimestamp(now_s, UTC)
    return ": ".join(closed(section.windows, section.freezes, now) or ())


def run(
    delivery: Delivery,
    gitops: GitOpsSection,
    section: CanarySection,
    images: Mapping[str, Reference],
    deployment: Deployment,
    *,
    settle: Callable[[], object] | None = None,
    on_message: Callable[[str], object] = lambda line: None,
    resume: bool = False,
) -> Deployment | None:
    """Give the images, by target, each weight in turn, then deploy them: see `Canary.advance`."""
    environment = delivery.environments.get(deployment.environment)
    canary = Canary(
        section=section,
        gitops=gitops,
        images=images,
        deployment=deployment,
        open_branch=lambda: delivery.branch(gitops),
        http=delivery.http,
        environ=delivery.environ,
        home=delivery.home,
        settle=settle,
        verifies=environment is None or not environment.checked,
        closed_reason=lambda: _closed(environment, delivery.clock()) if environment else "",
        on_message=on_message,
        resume=resume,
    )
    return canary.advance()


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A new version that gets its traffic step by step. `images` are by target, `deployment` is
    what the commits say of them. `open_branch` opens the branch of the environment. `settle` waits
    until the deployed images run; with `verifies`, a canary that passed counts as the verification
    of the environment. `closed_reason` is why no step may begin now, empty if one may. `on_message`
    gets lines of progress. With `resume`, a frozen canary is continued, too.
    """

    section: CanarySection
    gitops: GitOpsSection
    images: Mapping[str, Reference]
    deployment: Deployment
    open_branch: Callable[[], AbstractContextManager[RemoteBranch]]
    http: HttpClient
    environ: Mapping[str, str] = field(repr=False)
    home: Path
    settle: Callable[[], object] | None = None
    verifies: bool = True
    closed_reason: Callable[[], str] = lambda: ""
    on_message: Callable[[str], object] = lambda line: None
    resume: bool = False
    run: str = field(default_factory=lambda: secrets.token_hex(8))

    def advance(self) -> Deployment | None:
        """Run the steps from the one that the history is at, then promote. Returns the commit that
        promoted; None if the environment has the images already.

        Raises CanaryFailed after a rollback or freeze, CanaryRuns for a canary of another process
        or image, Superseded if the environment was changed by anything else meanwhile.
        """
        measured = self._measure_function()  # finds what is missing before anything is committed
        with self._lock() as lock:
            current = self._begin(lock)
            if current is None or current.action is not Action.WEIGHT:
                return current and self._finish(current)
            at = position([current], current.environment)
            first = min(at.step, len(self.section.steps) - 1) if at else 0
            for number in range(first, len(self.section.steps)):
                try:
                    if number > first:
                        current = self._commit(self._weight(number, current.previous, "pass"))
                    verdict = self._watch(number, current, measured)
                except _Held as error:
                    verdict = StepVerdict(CanaryVerdict.FAIL, str(error))
                if verdict.verdict is not CanaryVerdict.PASS:
                    self._fail(number, verdict, current.previous)
            promoted = replace(
                self._weight(number, current.previous, "pass"),
                action=Action.PROMOTE if self.deployment.source else Action.DEPLOY,
                weight=None,
            )
            return self._finish(self._commit(promoted))

    def _begin(self, lock: int) -> Deployment | None:
        """The commit to continue from: the first of a new canary, the step of an abandoned one, or
        the promotion of one that was not finished. None if there is nothing to do.
        """
        environment = self.deployment.environment
        unfinished: list[Deployment] = []
        gone = os.pread(lock, 64, 0).decode()  # the run that had it before on this machine

        def make(commits: Sequence[Deployment]) -> Deployment | None:
            here, last = position(commits, environment), deployed(commits, environment)
            if here is not None:
                self._require_free(here, gone)
                self._require_unchanged(branch, here.last)
                return replace(here.last, run=self.run, verdict="", reason="")
            if why := self._held(commits):
                raise CanaryFailed(
                    str(why), hint=f"shipline release --env {environment} allows it again"
                )
            if last is None:
                raise UsageError(
                    f"{environment} has no version that a new one could be compared with",
                    code="canary-no-stable",
                    hint=f"deploy the first one: shipline deploy --env {environment}",
                )
            if last.digests == self.deployment.digests:
                is_last = last is newest(commits, environment)
                unfinished.extend([last] if is_last and last.step else [])
                return None
            return self._weight(0, last.images)

        with self.open_branch() as branch:
            made = self._record(
                branch, make, check=lambda commit: os.pwrite(lock, self.run.encode(), 0)
            )
        if made is None:
            return unfinished[0] if unfinished else None
        self.on_message(_shown(made))
        return made

    def _require_free(self, here: Position, gone: str) -> None:
        """Raises CanaryRuns unless the canary is of these images and its process is gone."""
        last = here.last
        name = f"{last.environment} gives {last.weight} % to {last.app} {last.version}"
        if last.digests != self.deployment.digests:
            raise CanaryRuns(
                f"{name}, step {last.step}",
                hint="let it end, or take it back: shipline rollback --env " + last.environment,
            )
        if here.is_frozen and not self.resume:
            raise CanaryFailed(
                f"{name}, and is frozen there: {last.reason}",
                hint=f"try the step again: shipline canary --env {last.environment} --resume",
            )
        if last.run in (gone, self.run) or here.is_frozen:
            return
        step = self.section.steps[min(here.step, len(self.section.steps) - 1)]
        left_s = last.time + self._lease_s(step) - time.time()
        if left_s > 0:
            went_s = max(int(time.time() - last.time), 0)  # that clock may be ahead
            raise CanaryRuns(
                f"{name}, in another process that went on {went_s} s ago",
                hint=f"if it is gone, this canary can be resumed in {int(left_s) + 1} s",
            )

    def _held(self, commits: Sequence[Deployment]) -> _Held | None:
        """Why these images are held, if they are."""
        environment = self.deployment.environment
        own = [one for one in commits if one.environment == environment]
        found = held(own, self.deployment.digests)
        return _Held(f"{found.app} {found.version} is held: {found.reason}") if found else None

    def _lease_s(self, step: CanaryStep) -> float:
        interval_s = self.section.analysis.interval.seconds if self.section.analysis else 0.0
        return step.hold.seconds + max(_MARGIN_S, 3 * interval_s)

    def _measure_function(self) -> Callable[[Sequence[Reference]], list[MetricResult]]:
        """The function that measures, given the images of the stable version."""
        analysis = self.section.analysis
        if analysis is None:
            return lambda stable: []
        clients = {
            metric.language: query_client(
                self.http, analysis.server(metric), self.environ, analysis.timeout.seconds
            )
            for metric in analysis.metrics
        }
        named = {"app": self.deployment.app, "environment": self.deployment.environment}

        def measure(stable: Sequence[Reference]) -> list[MetricResult]:
            versions = (self.deployment.version, replace(self.deployment, images=stable).version)
            weights = self.section.weights
            names = (
                analysis.canary or weights.canary or versions[0],
                analysis.stable or weights.stable or versions[1],
            )
            ours, theirs = (
                {**named, "canary": one, "stable": names[1], "canary-version": version}
                | {"stable-version": versions[1]}
                for one, version in zip(names, versions, strict=True)
            )
            return measure_all(analysis, clients, ours, theirs)

        return measure

    def _watch(
        self,
        number: int,
        current: Deployment,
        measured: Callable[[Sequence[Reference]], list[MetricResult]],
    ) -> StepVerdict:
        """Wait until the next step may begin; returns the verdict on this one. If it is held for
        longer than planned, a commit with the reason renews its lease.
        """
        step, told = self.section.steps[number], ""
        late_s = max(0.0, time.time() - current.time) if current.time else 0.0
        renewed = looked = time.monotonic()

        def look() -> None:
            nonlocal looked
            try:
                self._check_state()
            except RemoteUnreachable as error:
                if time.monotonic() - renewed > self._lease_s(step):
                    raise
                self._tell_unreachable(error)
            looked = time.monotonic()

        if current.time:  # of an earlier process: what followed is not known
            look()

        def on_measured(made: Sequence[MetricResult]) -> None:
            nonlocal renewed
            for one in made:
                self.on_message(f"step {number + 1}/{len(self.section.steps)}: {one}")
            if time.monotonic() - looked > _CHECK_INTERVAL_S:
                look()
            if time.monotonic() - renewed > self._lease_s(step) - _MARGIN_S / 2:
                verdicts = [one.verdict for one in made if one.verdict is not CanaryVerdict.PASS]
                self._commit(self._weight(number, current.previous, *verdicts[:1]))
                renewed = time.monotonic()

        def paused() -> bool:
            nonlocal told
            why = self.closed_reason()
            if why and why != told:
                self.on_message(f"step {number + 1}/{len(self.section.steps)} is held: {why}")
            told = why
            return bool(why)

        return watch(
            self.section.analysis,
            lambda: measured(current.previous),
            hold_s=max(0.0, step.hold.seconds - late_s),
            on_measured=on_measured,
            paused=paused,
        )

    def _weight(self, number: int, stable: Sequence[Reference], verdict: str = "") -> Deployment:
        """The commit of a step. `verdict` is the one on the step before, or on this one while it is
        held.
        """
        return replace(
            self.deployment,
            action=Action.WEIGHT,
            weight=self.section.steps[number].weight,
            step=f"{number + 1}/{len(self.section.steps)}",
            verdict=verdict,
            previous=tuple(stable),
            reason="",
            run=self.run,
        )

    def _finish(self, promoted: Deployment) -> Deployment:
        """Wait until the deployment has settled, then commit that there is no weight any more and
        that the canary passed; returns `promoted`.
        """
        is_rollout = self.section.weights.kind == "rollout"
        if self.settle:
            self.settle()
        elif not is_rollout:
            sleep(self.section.steps[-1].hold.seconds)
        over = self._weight(len(self.section.steps) - 1, promoted.previous, "pass")
        passed = replace(
            self.deployment, action=Action.VERIFY, verdict="pass", reason="canary", run=self.run
        )
        records = [passed] if self.verifies else []
        self._commit(replace(over, weight=0), then=records, own=promoted, continues=False)
        return promoted

    def _fail(self, number: int, verdict: StepVerdict, stable: Sequence[Reference]) -> NoReturn:
        """Freeze the weight, or roll back and hold the image. Raises CanaryFailed."""
        weight, environment = self.section.steps[number].weight, self.deployment.environment
        patience_s = self._lease_s(self.section.steps[number])
        what = f"{self.deployment.app} {self.deployment.version} at {weight} %: {verdict.verdict}"
        reason = f"canary at {weight} %: {verdict.verdict}: {verdict.reason}"
        if self.section.on_failure == "freeze":
            frozen = self._weight(number, stable, verdict.verdict)
            self._commit(replace(frozen, reason=reason), continues=False, patience_s=patience_s)
            raise CanaryFailed(
                f"{what}, and frozen: {verdict.reason}",
                hint=f"try the step again: shipline canary --env {environment} --resume; or go"
                f" back: shipline rollback --env {environment}",
            )
        back = Deployment(
            environment,
            self.deployment.app,
            tuple(stable),
            previous=self.deployment.images,
            action=Action.ROLLBACK,
            verdict=verdict.verdict,
            reason=reason,
            run=self.run,
        )
        bad = self.deployment.without(back)
        hold = replace(self.deployment, images=bad, action=Action.HOLD, reason=reason, run=self.run)
        self._commit(back, then=[hold], continues=False, patience_s=patience_s)
        raise CanaryFailed(
            f"{what}, rolled back and held: {verdict.reason}",
            hint=f"shipline release --env {environment} allows it again",
        )

    def _check_state(self) -> None:
        """Read the history. Raises what `_require_own` raises."""
        with self.open_branch() as branch:
            commits = history(branch, branch.fetch(RECORDS), self.deployment.app)
            self._require_own(branch, commits)

    def _require_own(
        self,
        branch: RemoteBranch,
        commits: Sequence[Deployment],
        own: Deployment | None = None,
        *,
        continues: bool = True,
    ) -> None:
        """Raises Superseded unless the last commit of the canary is `own` or another one of this
        process, and the files are as it left them; _Held for a held image, if the canary
        `continues`.
        """
        last = newest(commits, self.deployment.environment)
        if last is None or (last.run != self.run and (own is None or last.id != own.id)):
            raise Superseded(
                f"somebody else went on: {last.subject if last else 'no canary'}",
                hint="shipline status shows where the environment is",
            )
        self._require_unchanged(branch, last)
        if continues and (why := self._held(commits)):
            raise why

    def _require_unchanged(self, branch: RemoteBranch, last: Deployment) -> None:
        """Raises Superseded unless the files of the branch as it was fetched have the images and
        weights that the last commit of the canary left.
        """
        if last.action is Action.WEIGHT and last.weight:
            stable = self._found(last.previous)
            edits: Sequence[TreeEdit] = left(
                self.section, self.gitops.updates, last.weight, self.images, stable
            )
        else:
            edits = self._edits(last)
        if why := changed_by_hand(branch, branch.local_tip(branch.name), edits, last.id):
            raise Superseded(
                f"{last.environment} was changed by hand during the canary: {why}",
                hint="take that back and go on: shipline canary --env"
                f" {last.environment} --resume; or end it: shipline deploy, shipline rollback",
            )

    def _commit(
        self,
        wanted: Deployment,
        *,
        then: Sequence[Deployment] = (),
        own: Deployment | None = None,
        continues: bool = True,
        patience_s: float = 0.0,
    ) -> Deployment:
        """Commit, with other records after it; while the repository cannot be reached, it is tried
        again for a minute, or for longer. Raises what `_require_own` raises.
        """

        def make(commits: Sequence[Deployment]) -> Deployment:
            self._require_own(branch, commits, own, continues=continues)
            return wanted

        until = time.monotonic() + max(_MARGIN_S, patience_s)
        while True:
            try:
                with self.open_branch() as branch:
                    done = self._record(branch, make, then)
                break
            except RemoteUnreachable as error:
                if time.monotonic() > until:
                    raise
                self._tell_unreachable(error)
                sleep(_RETRY_PAUSE_S)
        assert done is not None
        self.on_message(_shown(done))
        return done

    def _tell_unreachable(self, error: RemoteUnreachable) -> None:
        self.on_message(f"{self.deployment.environment}: {error.message}; it is tried again")

    def _record(
        self,
        branch: RemoteBranch,
        make: Callable[[Sequence[Deployment]], Deployment | None],
        then: Sequence[Deployment] = (),
        check: Callable[[str], object] = lambda commit: None,
    ) -> Deployment | None:
        return record(
            branch,
            self.deployment.app,
            make,
            edits=self._edits,
            then=then,
            sign=self.gitops.sign,
            check=check,
        )

    def _edits(self, made: Deployment) -> Sequence[TreeEdit]:
        """The files that change with a commit."""
        section, weights, updates = self.section, self.section.weights, self.gitops.updates
        is_rollout = weights.kind == "rollout"
        if made.action is Action.WEIGHT and not made.weight:
            return [lambda tree: set_weight(weights, tree, 0)]
        if made.action is Action.WEIGHT:
            return giving(section, updates, self.images, made.weight or 0)
        if made.action in (Action.PROMOTE, Action.DEPLOY):
            last = 0 if is_rollout else section.steps[-1].weight
            return [
                *image_edits(updates, self.images),
                lambda tree: set_weight(weights, tree, last, is_full=True),
            ]
        if made.action is Action.ROLLBACK:
            back = self._by_target(made.images)
            return [*image_edits(updates, back), *reset(section, back)]
        return ()

    def _by_target(self, images: Sequence[Reference]) -> Mapping[str, Reference]:
        """Images of an earlier deployment by target. Raises ConfigError if one is missing."""
        found = self._found(images)
        missing = [image.name for target, image in self.images.items() if target not in found]
        if missing:
            raise ConfigError(
                f"the version in use has no image {', '.join(missing)}", code="deployment-image"
            )
        return found

    def _found(self, images: Sequence[Reference]) -> Mapping[str, Reference]:
        """The images of an earlier deployment by the targets that have their names now."""
        names = {image.name: image for image in images}
        return {
            target: names[image.name]
            for target, image in self.images.items()
            if image.name in names
        }

    @contextmanager
    def _lock(self) -> Iterator[int]:
        """Hold the lock of this canary on this machine; yields the lock file, which names the last
        run that held it. Raises CanaryRuns.
        """
        key = "\0".join([self.gitops.repository, self.deployment.environment, self.deployment.app])
        directory = self.home / "canary"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / hashlib.sha256(key.encode()).hexdigest()[:32]
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                exclusively(fd)
            except BlockingIOError:
                raise CanaryRuns(
                    f"a process of this machine has the canary of {self.deployment.app} in"
                    f" {self.deployment.environment}",
                    hint="let it end, or end it and resume",
                ) from None
            yield fd
        finally:
            os.close(fd)
