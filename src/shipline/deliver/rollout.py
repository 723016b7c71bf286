"""A promotion from its decision to its verification: as the policy of the environment allows it,
step by step if there is a canary, until the environment is healthy and its checks passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from shipline.deliver.canary.progress import run
from shipline.deliver.checks import EnvironmentVerdict, verify
from shipline.deliver.delivery import Delivery
from shipline.deliver.gitops import Deployed, Deployment, OnRace
from shipline.deliver.promotion import PromotionRequest, promote, read_states
from shipline.errors import Waiting
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.deliver.canary.section import CanarySection
    from shipline.deliver.environments import EnvironmentSection
    from shipline.events import Step


@dataclass(frozen=True, slots=True)
class Rollout:
    """What was deployed, and the verdict on the environment with it; None if that was verified
    before, or without `wait`.
    """

    deployed: Deployed
    verdict: EnvironmentVerdict | None = None


def roll_out(
    delivery: Delivery,
    request: PromotionRequest,
    step: Step,
    *,
    wait: bool = True,
    checks: bool = True,
) -> Rollout:
    """Promote as `promote` does, step by step if the environment has a canary, and then, with
    `wait`, verify the environment, with its `checks`. Called again after an interruption, it
    continues from the state in git.

    Raises what `promote`, the canary and `verify` raise, NotVerified or GateUndecided unless the
    environment is verified, and Waiting for a pull request that has not been merged.
    """
    name = request.environment
    section = delivery.environment(name)
    if section.canary and read_states(delivery, (name,))[name].current:
        done = _canary(delivery, section, section.canary, request, step)
    else:
        done = promote(delivery, request, on_race=_tell_race(step))
    if not wait:
        return Rollout(done)
    if done.address:
        raise Waiting(
            f"{name} waits for a pull request to be merged: {done.address}",
            code="pull-request-waits",
        )
    state = read_states(delivery, (name,))[name]
    if not done.commit and state.verified(done.deployment.digests):
        return Rollout(done)
    there = state.current or done.deployment
    verdict = verify(delivery, section, there, step, gates=delivery.gates, checks=checks)
    verdict.require()
    return Rollout(done, verdict)


def _canary(
    delivery: Delivery,
    section: EnvironmentSection,
    canary: CanarySection,
    request: PromotionRequest,
    step: Step,
) -> Deployed:
    """Promote step by step, if a dry run of the promotion is allowed. Raises what `promote` and
    `run` raise.
    """
    allowed = promote(delivery, request, dry_run=True)
    planned = replace(allowed.deployment, id="", previous=())
    made = run(
        delivery,
        section.gitops,
        canary,
        delivery.by_target(planned.images),
        planned,
        settle=partial(settle, delivery, section, planned, step) if section.health else None,
        on_message=lambda line: step.output(f"{line}\n".encode()),
    )
    return replace(allowed, deployment=made or planned)


def settle(
    delivery: Delivery, section: EnvironmentSection, deployment: Deployment, step: Step
) -> None:
    """Wait until the environment runs the deployment. Raises NotVerified, GateUndecided."""
    verify(delivery, section, deployment, step, checks=False, keep=False).require()


def _tell_race(step: Step) -> OnRace:
    def tell(attempt: int) -> None:
        step.output(f"another push was first; deciding again (attempt {attempt + 1})\n".encode())

    return tell
