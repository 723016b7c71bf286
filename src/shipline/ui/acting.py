"""What can be done on the board, each as the command of the same name does it: by the user of git
who runs `shipline ui`, for the images that the form was made for and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shipline.deliver.delivery import Delivery
from shipline.deliver.gitops import Deployed, Deployment
from shipline.deliver.promotion import (
    EnvironmentState,
    PromotionRequest,
    approve,
    hold,
    previous_deployments,
    read_states,
    release,
    rollback,
)
from shipline.deliver.promotion.state import Digests
from shipline.deliver.rollout import roll_out
from shipline.errors import ShiplineError, UsageError
from shipline.events import silent
from shipline.ui.board import BoardCell


@dataclass(frozen=True, slots=True)
class BoardDecision:
    """What a person decided on: the `digests` that the page showed, why, and the word for what to
    go back to.
    """

    digests: Digests
    reason: str = ""
    back_to: str = ""


@dataclass(frozen=True, slots=True)
class BoardAction:
    """`question` and `verb` are on the page that asks; `risk` is whether it takes something away.
    `subject` is what it is about in a cell, None if there is nothing; with `judged` the page shows
    what the rules say of that.
    """

    verb: str
    question: str
    effect: str
    subject: Callable[[BoardCell], Deployment | None]
    do: Callable[[Delivery, str, BoardDecision], Deployed | Deployment | None]
    reasoned: bool = True
    risk: bool = False
    judged: bool = False


def choices(cell: BoardCell, state: EnvironmentState) -> list[Deployment]:
    """What a rollback may go back to, the default first."""
    here = cell.canary or cell.current
    if here is None:
        return []
    found = [*previous_deployments(state, here)]
    if cell.canary and cell.current:  # what most of the traffic has still
        found = [cell.current, *(one for one in found if one.digests != cell.current.digests)]
    return found


def _approve(delivery: Delivery, name: str, decision: BoardDecision) -> Deployment:
    return approve(delivery, name, reason=decision.reason, seen=decision.digests)


def _promote(delivery: Delivery, name: str, decision: BoardDecision) -> Deployed:
    if delivery.environment(name).canary and read_states(delivery, (name,))[name].current:
        digests = ",".join(sorted(map(str, decision.digests)))
        raise UsageError(
            f"{name} has a canary, whose steps take longer than a page waits",
            code="canary-not-here",
            hint=f"`shipline promote --env {name} {digests}` takes it there, step by step",
        )
    request = PromotionRequest(environment=name, seen=decision.digests)
    with silent("promote") as step:
        return roll_out(delivery, request, step, wait=False).deployed


def _hold(delivery: Delivery, name: str, decision: BoardDecision) -> Deployment | None:
    return hold(delivery, name, reason=decision.reason, seen=decision.digests)


def _release(delivery: Delivery, name: str, decision: BoardDecision) -> Deployment | None:
    return release(delivery, name, reason=decision.reason, seen=decision.digests)


def _rollback(delivery: Delivery, name: str, decision: BoardDecision) -> Deployed:
    return rollback(
        delivery, name, image=decision.back_to, reason=decision.reason, seen=decision.digests
    )


ACTIONS: Mapping[str, BoardAction] = {
    "approve": BoardAction(
        "Approve",
        "Approve {version} for {name}?",
        "A commit says that you approve exactly these images for {name}.",
        lambda cell: cell.next.deployment if cell.next else None,
        _approve,
        judged=True,
    ),
    "promote": BoardAction(
        "Promote",
        "Promote {version} to {name}?",
        "A commit sets these images in {name}, if its rules still allow it.",
        lambda cell: cell.next.deployment if cell.next else None,
        _promote,
        reasoned=False,
        judged=True,
    ),
    "hold": BoardAction(
        "Hold",
        "Hold {version} in {name}?",
        "What is there stays; these images are not deployed to {name} again until they are"
        " released.",
        lambda cell: cell.current,
        _hold,
        risk=True,
    ),
    "release": BoardAction(
        "Release",
        "Release {version} in {name}?",
        "These images may be deployed to {name} again. Approvals before the hold do not count.",
        lambda cell: next(iter(cell.holds), None),
        _release,
    ),
    "rollback": BoardAction(
        "Roll back",
        "Roll {name} back from {version}?",
        "A commit sets the older images in {name}, and holds {version} there. Neither windows nor"
        " approvals delay it.",
        lambda cell: cell.canary or cell.current,
        _rollback,
        risk=True,
    ),
}
"""By the name in addresses, which is that of the command."""


def commit_of(done: Deployed | Deployment | None) -> tuple[str, str]:
    """The commit, and the address of the pull request; both empty if nothing was to be done."""
    if isinstance(done, Deployed):
        return done.commit, done.address
    return (done.id, "") if done else ("", "")


def reasons_of(error: ShiplineError) -> tuple[str, ...]:
    """All that an error says besides its message and hint."""
    verdicts = getattr(error, "verdicts", ())
    return (*verdicts, *getattr(error, "__notes__", ()))
