"""A promotion from its decision to its end: what the policy of the environment allows, its canary
if it has one, and whether the environment is well with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from shipline.deliver.canary.progress import run
from shipline.deliver.checks import EnvironmentVerdict, verify
from shipline.deliver.delivery import Delivery
from shipline.deliver.gitops import Deployed, Deployment, OnRace
from shipline.deliver.promotion import promote, read_states
from shipline.deliver.promotion.state import Digests
from shipline.errors import Waiting
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.deliver.environments import EnvironmentSection
    from shipline.events import Step

Promote = Callable[..., Deployed]
"""A promotion that is decided, and made unless `dry_run` is set."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What was deployed, and the verdict on the environment with it: None if it was verified
    before, or nothing waited for it.
    """

    deployed: Deployed
    verdict: EnvironmentVerdict | None = None


def roll_out(
    delivery: Delivery,
    name: str,
    step: Step,
    *,
    source: str = "",
    image: str = "",
    chosen: Deployment | None = None,
    automatic: bool = False,
    allow_older: bool = False,
    replace_image: bool = False,
    seen: Digests | None = None,
    wait: bool = True,
    checks: bool = True,
) -> Rollout:
    """Promote as `promote` does, step by step where the environment has a canary, and then, with
    `wait`, verify it, with its `checks`. What is interrupted goes on where git says that it is.

    Raises what `promote`, the canary and `verify` raise, NotVerified or GateUndecided unless it is
    verified, and Waiting for a pull request that has not been merged.
    """
    section = delivery.environment(name)
    promoted = partial(
        promote,
        delivery,
        name,
        source=source,
        image=image,
        chosen=chosen,
        automatic=automatic,
        allow_older=allow_older,
        replace_image=replace_image,
        seen=seen,
    )
    if section.canary and read_states(delivery, (name,))[name].current:
        done = _canary(delivery, section, promoted, step)
    else:
        done = promoted(on_race=_tell_race(step))
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
    delivery: Delivery, section: EnvironmentSection, promoted: Promote, step: Step
) -> Deployed:
    """Promote step by step. The policy is asked first; nothing is pushed for that."""
    allowed = promoted(dry_run=True)
    planned = replace(allowed.deployment, id="", previous=())
    assert section.canary is not None
    made = run(
        delivery,
        section.gitops,
        section.canary,
        delivery.by_target(planned.images),
        planned,
        settled=partial(settle, delivery, section, planned, step) if section.health else None,
        tell=lambda line: step.output(f"{line}\n".encode()),
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
