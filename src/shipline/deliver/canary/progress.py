"""A canary from its first weight to its end. Where it is stands in git alone:

    weight 1/3 -> weight 2/3 -> weight 3/3 -> promote 3/3 -> weight 0, verify
        `-> rollback, hold
        `-> weight with a reason: frozen

Each commit is made for the state that its process believes in, and that is read again after each
lost race: of two processes one commits, the other one sees that and stops. The process that has a
canary is named by `Shipline-Run`. It counts as gone once it committed nothing for longer than the
step is held, with a margin; on its own machine, once it holds its lock no more.
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

_MARGIN_S = 60.0  # how late a commit may be until its process counts as gone
_LOOK_S = 10.0  # how often git is asked whether somebody else changed something
_AGAIN_S = 2.0  # until a commit is tried again while the repository cannot be reached


class CanaryFailed(ShiplineError):
    """The new version was rolled back, or its weight is frozen."""

    code = "canary-failed"
    title = "canary failed"
    exit_code = 9


class CanaryRuns(Waiting):
    """There is a canary already, of this image in another process, or of another image."""

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
    settled: Callable[[], object] | None = None,
    tell: Callable[[str], object] = lambda line: None,
    resume: bool = False,
) -> Deployment | None:
    """Give images, by target, their weights in an environment, one after the other, and deploy
    them: see `Canary`.
    """
    environment = delivery.environments.get(deployment.environment)
    canary = Canary(
        section=section,
        gitops=gitops,
        images=images,
        deployment=deployment,
        opened=lambda: delivery.branch(gitops),
        http=delivery.http,
        environ=delivery.environ,
        home=delivery.home,
        settled=settled,
        verifies=environment is None or not environment.checked,
        closed=lambda: _closed(environment, delivery.clock()) if environment else "",
        tell=tell,
        resume=resume,
    )
    return canary.advance()


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A new version on its way into an environment. `images` are by target, `deployment` says what
    the commits say of them; `opened` opens the branch for a moment. `settled` waits until what was
    deployed runs; with `verifies`, the canary is the verification of the environment. `closed` says
    why no step may begin now, empty if one may. `tell` gets lines for people. `resume` takes up one
    that is frozen, too.
    """

    section: CanarySection
    gitops: GitOpsSection
    images: Mapping[str, Reference]
    deployment: Deployment
    opened: Callable[[], AbstractContextManager[RemoteBranch]]
    http: HttpClient
    environ: Mapping[str, str] = field(repr=False)
    home: Path
    settled: Callable[[], object] | None = None
    verifies: bool = True
    closed: Callable[[], str] = lambda: ""
    tell: Callable[[str], object] = lambda line: None
    resume: bool = False
    run: str = field(default_factory=lambda: secrets.token_hex(8))

    def advance(self) -> Deployment | None:
        """Go through all steps, from where git says that the canary is, and promote. Returns the
        commit that promoted; None if the environment has the images already.

        Raises CanaryFailed after a rollback or freeze, CanaryRuns if another process has it or
        another image is on its way, Superseded if somebody else changed the environment meanwhile.
        """
        measured = self._measured()  # finds what is missing before anything is committed
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
        """The commit that this process goes on from: a new canary's first, the step of one that was
        left, or the promotion of one that is not finished. None if there is nothing to do.
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

        with self.opened() as branch:
            made = self._record(
                branch, make, check=lambda commit: os.pwrite(lock, self.run.encode(), 0)
            )
        if made is None:
            return unfinished[0] if unfinished else None
        self.tell(_shown(made))
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
            raise CanaryRuns(
                f"{name}, in another process that went on {int(time.time() - last.time)} s ago",
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

    def _measured(self) -> Callable[[Sequence[Reference]], list[MetricResult]]:
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
        """The verdict on a step, which lasts until the next may begin. While it is held for longer,
        a commit says why now and then.
        """
        step, told = self.section.steps[number], ""
        late_s = max(0.0, time.time() - current.time) if current.time else 0.0
        renewed = looked = time.monotonic()

        def look() -> None:
            nonlocal looked
            try:
                self._look()
            except RemoteUnreachable as error:
                if time.monotonic() - renewed > self._lease_s(step):
                    raise
                self._tell_unreachable(error)
            looked = time.monotonic()

        if current.time:  # what was said since then is not known
            look()

        def on_measured(made: Sequence[MetricResult]) -> None:
            nonlocal renewed
            for one in made:
                self.tell(f"step {number + 1}/{len(self.section.steps)}: {one}")
            if time.monotonic() - looked > _LOOK_S:
                look()
            if time.monotonic() - renewed > self._lease_s(step) - _MARGIN_S / 2:
                verdicts = [one.verdict for one in made if one.verdict is not CanaryVerdict.PASS]
                self._commit(self._weight(number, current.previous, *verdicts[:1]))
                renewed = time.monotonic()

        def paused() -> bool:
            nonlocal told
            why = self.closed()
            if why and why != told:
                self.tell(f"step {number + 1}/{len(self.section.steps)} is held: {why}")
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
        """What the commit of a step says; `verdict` is that on the step before, or on this one
        while it is held.
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
        """After the deployment: no weight any more, and a record that it passed."""
        is_rollout = self.section.weights.kind == "rollout"
        if self.settled:
            self.settled()
        elif not is_rollout:
            sleep(self.section.steps[-1].hold.seconds)
        over = self._weight(len(self.section.steps) - 1, promoted.previous, "pass")
        passed = replace(
            self.deployment, action=Action.VERIFY, verdict="pass", reason="canary", run=self.run
        )
        records = [passed] if self.verifies else []
        self._commit(replace(over, weight=0), then=records, mine=promoted, goes_on=False)
        return promoted

    def _fail(self, number: int, verdict: StepVerdict, stable: Sequence[Reference]) -> NoReturn:
        """Freeze, or hold the image and go back. Raises CanaryFailed."""
        weight, environment = self.section.steps[number].weight, self.deployment.environment
        what = f"{self.deployment.app} {self.deployment.version} at {weight} %: {verdict.verdict}"
        reason = f"canary at {weight} %: {verdict.verdict}: {verdict.reason}"
        if self.section.on_failure == "freeze":
            frozen = self._weight(number, stable, verdict.verdict)
            self._commit(replace(frozen, reason=reason), goes_on=False)
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
        self._commit(back, then=[hold], goes_on=False)
        raise CanaryFailed(
            f"{what}, rolled back and held: {verdict.reason}",
            hint=f"shipline release --env {environment} allows it again",
        )

    def _look(self) -> None:
        """Raises what `_require_mine` raises."""
        with self.opened() as branch:
            commits = history(branch, branch.fetch(RECORDS), self.deployment.app)
            self._require_mine(branch, commits)

    def _require_mine(
        self,
        branch: RemoteBranch,
        commits: Sequence[Deployment],
        mine: Deployment | None = None,
        *,
        goes_on: bool = True,
    ) -> None:
        """Raises Superseded unless the last commit of the canary is this process's, or `mine`, and
        the files have what it left, and _Held if it would go on with an image that is held.
        """
        last = newest(commits, self.deployment.environment)
        if last is None or (last.run != self.run and (mine is None or last.id != mine.id)):
            raise Superseded(
                f"somebody else went on: {last.subject if last else 'no canary'}",
                hint="shipline status shows where the environment is",
            )
        self._require_unchanged(branch, last)
        if goes_on and (why := self._held(commits)):
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
        mine: Deployment | None = None,
        goes_on: bool = True,
    ) -> Deployment:
        """Commit, with other records after it. Raises what `_require_mine` raises."""

        def make(commits: Sequence[Deployment]) -> Deployment:
            self._require_mine(branch, commits, mine, goes_on=goes_on)
            return wanted

        until = time.monotonic() + _MARGIN_S
        while True:
            try:
                with self.opened() as branch:
                    done = self._record(branch, make, then)
                break
            except RemoteUnreachable as error:
                if time.monotonic() > until:
                    raise
                self._tell_unreachable(error)
                sleep(_AGAIN_S)
        assert done is not None
        self.tell(_shown(done))
        return done

    def _tell_unreachable(self, error: RemoteUnreachable) -> None:
        self.tell(f"{self.deployment.environment}: {error.message}; it is tried again")

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
        """Hold the lock of this canary on this machine; gives its open file, which names the run
        that went on last, and is gone. Raises CanaryRuns.
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
