"""Whether an environment runs what was deployed, is healthy, and passes its checks: a verdict,
which is recorded in the GitOps repository.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shipline.deliver.commands import CommandResult, argv_of, environment, run_command, secrets_in
from shipline.deliver.delivery import Delivery
from shipline.deliver.environments import EnvironmentSection
from shipline.deliver.gitops import Action, Deployment, Superseded, record
from shipline.deliver.health import CheckSection, HealthSection
from shipline.deliver.runtime import RunningState, RuntimeSource, RuntimeUnreadable, open_runtime
from shipline.errors import ConfigError, GateUndecided, ShiplineError, StepFailed
from shipline.events import Step
from shipline.gates import GateContext, GateEnvironment, GatesSection, run_gates
from shipline.gates.report_files import existing_files
from shipline.gates.section import DastGate
from shipline.propagation import traceparent
from shipline.registry.errors import clean
from shipline.tasks import sleep
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.gates import Verdict

Grade = Literal["pass", "fail", "error"]
"""`error`: it cannot be determined."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.25, 10.0, 1.5
_SHOWN = 20  # findings of a check in an error


class NotVerified(ShiplineError):
    """An environment does not run what was deployed, is not healthy, or a check of it failed."""

    code = "not-verified"
    title = "not verified"
    exit_code = 17


@dataclass(frozen=True, slots=True)
class EnvironmentCheck:
    """What became of one check: why, what to do, and the end of its output or its findings."""

    name: str
    grade: Grade
    reason: str
    hint: str = ""
    details: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The result in one line."""
        return f"{self.name}: {self.grade}: {self.reason}"


@dataclass(frozen=True, slots=True)
class EnvironmentVerdict:
    """The results for a deployment, in order. `record` is what the GitOps repository says of it,
    None if nothing had to be recorded.
    """

    deployment: Deployment
    results: tuple[EnvironmentCheck, ...]
    record: Deployment | None = None

    @property
    def grade(self) -> Grade:
        """The worst of the results."""
        grades = {result.grade for result in self.results}
        return "fail" if "fail" in grades else "error" if "error" in grades else "pass"

    def require(self) -> None:
        """Raises NotVerified, or GateUndecided if that is unknown, unless all passed."""
        bad = [result for result in self.results if result.grade != "pass"]
        if not bad:
            return
        first, name = bad[0], self.deployment.environment
        what = f"{name}: {self.deployment.app} {self.deployment.version}"
        error: ShiplineError
        if self.grade == "fail":
            error = NotVerified(f"{what}: {first.name}: {first.reason}", hint=first.hint)
        else:
            lines = tuple(result.line for result in bad)
            message = f"{what} could not be verified: {first.name}: {first.reason}"
            error = GateUndecided(message, code="checks-undecided", verdicts=lines, hint=first.hint)
        for detail in first.details:
            error.add_note(detail)
        raise error


def verify(
    delivery: Delivery,
    section: EnvironmentSection,
    deployment: Deployment,
    step: Step,
    *,
    gates: GatesSection | None = None,
    checks: bool = True,
    keep: bool = True,
) -> EnvironmentVerdict:
    """Wait until the environment runs the deployment and is healthy, then run its checks, up to the
    first that does not pass; without `checks` none of them. `gates` has the gates that checks name,
    and waivers. The verdict is recorded, unless `keep` is false; one that passes is not if checks
    were left out.

    An environment without health and checks passes, and nothing is recorded. Raises AuthError,
    ConfigError, Cancelled; Superseded if something else was deployed meanwhile; what `record`
    raises.
    """
    gates = gates or GatesSection()
    known = {name for name, _, _ in gates.gates()}
    for problem in section.unknown_gates(deployment.environment, known):
        hint = f"gates are {', '.join(sorted(known)) or 'not configured'}"
        raise ConfigError(problem, hint=hint)
    run = _Verifier(delivery, section, deployment, gates)
    results: list[EnvironmentCheck] = []
    for result in run.results(step, checks=checks):
        results.append(result)
        if result.grade != "pass":
            break
    done = EnvironmentVerdict(deployment, tuple(results))
    is_whole = checks or not section.checks
    if not keep or not results or (done.grade == "pass" and not is_whole):
        return done
    return replace(done, record=run.record(done))


@dataclass(frozen=True, slots=True)
class _Verifier:
    """The verification of one deployment."""

    delivery: Delivery
    section: EnvironmentSection
    deployment: Deployment
    gates: GatesSection

    @property
    def logs(self) -> Path:
        """The directory for the output of checks."""
        deployment = self.deployment
        app = re.sub("[^A-Za-z0-9._-]", "-", deployment.app)
        return self.delivery.home / "checks" / app / deployment.environment

    def results(self, step: Step, *, checks: bool) -> Iterator[EnvironmentCheck]:
        """The results, one after another."""
        health, deployment = self.section.health, self.deployment
        if health is not None:
            runtime = open_runtime(health, self.delivery.environ, self.delivery.root)
            waiting = partial(wait_until_running, runtime, health, deployment)
            yield _shown(step, f"wait for {deployment.environment}", waiting)
        for name, check in self.section.tests.items() if checks else ():
            yield _shown(step, f"check {name}", partial(self._check, name, check))

    def _check(self, name: str, check: CheckSection, step: Step) -> EnvironmentCheck:
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        for attempt in range(check.retries + 1):
            for path in existing_files(check.reports, self.delivery.root):
                path.unlink()
            began = datetime.now(UTC)
            try:
                ended = self._run(name, check, step, log)
            except StepFailed as error:  # it could not be started
                return EnvironmentCheck(name, "error", error.message, error.hint)
            how = (
                f"took more than {check.timeout}"
                if ended.timed_out
                else f"ended with {ended.status}"
            )
            if check.reports and not ended.timed_out:
                result = self._judged(name, check, began, how)
            elif ended.ok:
                result = EnvironmentCheck(name, "pass", "it passed")
            else:
                lines = ended.log or ("(no output)",)
                result = EnvironmentCheck(
                    name, "fail", f"it {how}", f"its output is in {log}", lines
                )
            if result.grade == "pass" or attempt == check.retries:
                return result
            step.warn(f"{result.reason}, trying again ({attempt + 1} of {check.retries})")
        raise AssertionError  # the last attempt returns

    def _run(self, name: str, check: CheckSection, step: Step, log: Path) -> CommandResult:
        root, environ = self.delivery.root, self.delivery.environ
        more = {**variables(name, self.section, self.deployment, root), **check.env}
        with log.open("wb") as file:

            def write(data: bytes) -> None:
                step.output(data)
                file.write(data)
                file.flush()

            return run_command(
                argv_of(check.run),
                directory=root / check.working_directory,
                environ=environment(environ, check.pass_env, more),
                timeout_s=check.timeout.seconds,
                write=write,
                hidden=secrets_in(environ, check.pass_env),
            )

    def _judged(
        self, name: str, check: CheckSection, began: datetime, how: str
    ) -> EnvironmentCheck:
        """What the gate says of the reports, which must be newer than the start of the check, and
        of a scanner about the service.
        """
        gates, gate, deployment = self.gates, check.gate, self.deployment
        if isinstance(gate, DastGate):
            rules = replace(gate, name=name, target=gate.target or _address(self.section))
            gates = GatesSection(
                dast=rules,
                waivers=gates.waivers,
                waiver_files=gates.waiver_files,
                on_incomplete=gates.on_incomplete,
            )
            gate = name
        context = GateContext(
            datetime.now(UTC),
            deployment.commit,
            repository=deployment.images[0].name if deployment.images else "",
            environment=deployment.environment,
            built_at=began,
        )
        (verdict,) = run_gates(
            gates,
            context,
            GateEnvironment(self.delivery.root, self.delivery.environ, run_commands=False),
            names=[gate],
            reports={gate: check.reports},
        )
        return _of_verdict(name, verdict, how)

    def record(self, done: EnvironmentVerdict) -> Deployment | None:
        """What was recorded. Raises Superseded."""
        deployment = self.deployment
        first = next((one for one in done.results if one.grade != "pass"), None)
        made = replace(
            deployment,
            action=Action.VERIFY,
            verdict=done.grade,
            reason=clean(f"{first.name}: {first.reason}") if first else "",
            gates={result.name: result.grade for result in done.results},
            previous=(),
            source="",
            approved_by=(),
            trace=traceparent(),
        )

        def make(commits: Sequence[Deployment]) -> Deployment:
            there = [
                one
                for one in commits
                if one.environment == deployment.environment and one.action.deploys
            ]
            ours = any(one.digests == deployment.digests for one in there)
            if ours and there[0].digests != deployment.digests:
                raise Superseded(
                    f"{deployment.environment} was given {there[0].app} {there[0].version} while"
                    f" {deployment.version} was being verified",
                    hint=f"verify what is there now: shipline check --env {deployment.environment}",
                )
            return made

        gitops = self.section.gitops
        with self.delivery.branch(gitops) as branch:
            return record(branch, made.app, make, proposed=gitops.pull_request, sign=gitops.sign)


class _NotPassed(ShiplineError):
    """A result other than pass, which ends its step with an error."""

    code = "not-verified"

    def __init__(self, result: EnvironmentCheck) -> None:
        super().__init__(result.reason)
        self.result = result


def _shown(step: Step, title: str, work: Callable[[Step], EnvironmentCheck]) -> EnvironmentCheck:
    """The result of `work`, as a step of its own."""
    try:
        with step.step(title, kind="run") as shown:
            result = work(shown)
            if result.grade != "pass":
                raise _NotPassed(result)
    except _NotPassed as end:
        return end.result
    return result


def _of_verdict(name: str, verdict: Verdict, how: str) -> EnvironmentCheck:
    check = verdict.deciding_check
    if not verdict.blocks:
        return EnvironmentCheck(name, "pass", verdict.reason)
    grade: Grade = "error" if verdict.outcome.undecided else "fail"
    reason = f"{verdict.reason} (the command {how})" if grade == "error" else verdict.reason
    details = check.details[:_SHOWN]
    if len(check.details) > _SHOWN:
        details = (*details, f"and {len(check.details) - _SHOWN} more")
    return EnvironmentCheck(name, grade, reason, check.hint, details)


def variables(
    name: str, section: EnvironmentSection, deployment: Deployment, root: Path
) -> Mapping[str, str]:
    """The variables that tell a check what it is about."""
    images = deployment.images
    facts = {
        "SHIPLINE": "true",
        "SHIPLINE_CHECK": name,
        "SHIPLINE_ENVIRONMENT": deployment.environment,
        "SHIPLINE_APP": deployment.app,
        "SHIPLINE_COMMIT": deployment.commit,
        "SHIPLINE_IMAGES": " ".join(map(str, images)),
        "SHIPLINE_ROOT": str(root),
    }
    if len(images) == 1:
        facts |= {"SHIPLINE_IMAGE": str(images[0]), "SHIPLINE_DIGEST": str(images[0].digest or "")}
    if address := _address(section):
        facts["SHIPLINE_URL"] = address
    return facts


def _address(section: EnvironmentSection) -> str:
    """The URL that shows the health of the environment, if one does."""
    return section.health.url.address if section.health and section.health.url else ""


def wait_until_running(
    runtime: RuntimeSource, health: HealthSection, deployment: Deployment, step: Step
) -> EnvironmentCheck:
    """Wait until all images of the deployment run and are healthy, at most for the time of
    `health`. A rollout of them that is degraded for longer than the grace period has failed; that
    of older ones is waited for. Raises AuthError.
    """
    deadline = time.monotonic() + health.timeout.seconds
    pause, shown, failing_since = _FIRST_PAUSE_S, "", 0.0
    state, problem, first = RunningState(frozenset(), health="unknown"), "", True
    while True:
        try:
            state = runtime.read(deployment.images, deployment.commit, refresh=first)
            first, problem = False, ""
        except RuntimeUnreadable as error:
            if not error.retriable:
                return EnvironmentCheck("health", "error", error.message, error.hint)
            problem = error.message
        missing = problem or _missing(state, deployment)
        if not missing:
            if state.images is None:
                step.warn(
                    "the page does not say which version runs",
                    "give health.url.contains or header with {digest}, {tag} or {commit}",
                )
            return EnvironmentCheck("health", "pass", "it runs and is healthy")
        now = time.monotonic()
        if problem or not _is_failing(state, deployment):
            failing_since = 0.0
        else:
            failing_since = failing_since or now
            if now - failing_since >= health.grace.seconds:
                return EnvironmentCheck("health", "fail", missing, _hint(health))
        if now >= deadline:
            reason = f"after {health.timeout}: {missing}"
            return EnvironmentCheck("health", "error" if problem else "fail", reason, _hint(health))
        if missing != shown:
            step.output(f"{missing}\n".encode())
            shown = missing
        sleep(min(pause, max(0.0, deadline - now) + 0.01))
        pause = min(_LONGEST_PAUSE_S, pause * _GROWTH)


def _missing(state: RunningState, deployment: Deployment) -> str:
    """What is missing until the deployment runs and is healthy; empty if nothing is."""
    if state.failure:
        return clean(state.failure)
    if not state.synced or state.health != "healthy":
        return clean(state.message) or f"it is {state.health}"
    absent = [image for image in deployment.images if not state.runs(image)]
    if deployment.id and state.revision == deployment.id and len(absent) < len(deployment.images):
        return ""  # all that the commit describes is there; an image may be that of a later job
    if not absent:
        return ""
    if state.message and not state.wanted:
        return clean(state.message)
    others = sorted(
        name for name in state.images or () for image in absent if f"{image.repository}:" in name
    )
    still = f"; {others[0]} still does" if others else ""
    return f"it is healthy, but {absent[0]} does not run{still}"


def _is_failing(state: RunningState, deployment: Deployment) -> bool:
    """Whether it is this deployment that fails, and not what was there before."""
    if state.failure:
        return True
    ours = any(state.wants(image) for image in deployment.images)
    return state.health == "degraded" and ours


def _hint(health: HealthSection) -> str:
    if health.argocd:
        return f"see `argocd app get {health.argocd.application}`, and what its objects say"
    if health.kubernetes:
        names = [f"{kind}/{name}" for kind, name in health.kubernetes.names.items() if name]
        namespace = f"-n {health.kubernetes.namespace} " if health.kubernetes.namespace else ""
        shown = names[0] if names else f"pods -l {health.kubernetes.selector}"
        return f"see `kubectl {namespace}describe {shown}`; health.timeout sets how long to wait"
    return "see the logs of the service; health.timeout sets how long to wait"
