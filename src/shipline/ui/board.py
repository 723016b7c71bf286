"""The board: what each environment has, in what state that is, and what comes next.

It is `shipline status` for a browser: rows, rules and times are those of deliver.promotion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shipline.deliver.canary.state import position
from shipline.deliver.delivery import Delivery
from shipline.deliver.drift import DriftFinding
from shipline.deliver.environments import EnvironmentSection
from shipline.deliver.gitops import Action, Deployment
from shipline.deliver.promotion import (
    Blocker,
    EnvironmentState,
    check_approval,
    previous_deployments,
    source_author,
)
from shipline.deliver.promotion.board import BoardRow, board_rows
from shipline.errors import ShiplineError
from shipline.units import counted

States = Mapping[str, EnvironmentState]


@dataclass(frozen=True, slots=True)
class Soak:
    """How long images were verified, and how long they must be for the environment `before`, in
    seconds.
    """

    before: str
    lasted: float
    wanted: float

    @property
    def left(self) -> float:
        return max(0.0, self.wanted - self.lasted)


@dataclass(frozen=True, slots=True)
class CellCondition:
    """The state of an environment as a chip: kind (its look), word, and why, if that helps."""

    kind: str
    word: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NextRelease:
    """The images that come next, and `possible`, when they may at the earliest, in Unix time.
    `mine` is whether an approval by the person who reads the page would count.
    """

    deployment: Deployment
    blockers: tuple[Blocker, ...]
    possible: float | None
    mine: bool

    @property
    def ready(self) -> bool:
        return not self.blockers

    @property
    def refused(self) -> tuple[Blocker, ...]:
        """The blockers that neither time nor approvals remove."""
        return tuple(one for one in self.blockers if not one.waits)


@dataclass(frozen=True, slots=True)
class BoardCell:
    """An environment. `current` is what it has, None for nothing; `settled` is whether the last
    environment has the same. `actions` are the names of forms on the page. `stepwise` is whether
    `next` gets its traffic step by step.
    """

    name: str
    rules: str
    current: Deployment | None
    condition: CellCondition
    soak: Soak | None
    canary: Deployment | None
    next: NextRelease | None
    holds: tuple[Deployment, ...]
    settled: bool
    stepwise: bool
    actions: tuple[str, ...]

    @property
    def waits(self) -> str:
        """What people must do here, as one line; empty if nothing."""
        if self.condition.kind.partition(" ")[0] in ("bad", "warn"):
            return f"{self.condition.word}: {self.condition.reason}".removesuffix(": ")
        if self.next is None:
            return ""
        version = self.next.deployment.version
        if self.next.ready:
            return f"{version} may be promoted" if "promote" in self.actions else ""
        if self.next.refused:
            return f"{version} is refused: {self.next.refused[0].reason}"
        people = [one for one in self.next.blockers if one.until is None]
        if not people:
            return ""
        return f"{version} waits: {', '.join(f'{one.rule} {one.reason}' for one in people)}"


@dataclass(frozen=True, slots=True)
class EnvironmentBoard:
    """All environments of an app, for a person, `Name <address>`."""

    app: str
    cells: tuple[BoardCell, ...]
    person: str

    @property
    def waiting(self) -> tuple[BoardCell, ...]:
        """The environments that wait for people."""
        return tuple(cell for cell in self.cells if cell.waits)

    @property
    def mine(self) -> int:
        """The number of environments that wait for an approval by `person`."""
        return sum(1 for cell in self.waiting if cell.next is not None and cell.next.mine)


def read_board(
    delivery: Delivery, states: States, person: str, drift: Sequence[DriftFinding] = ()
) -> EnvironmentBoard:
    """The board for a person, `Name <address>`; `drift` is what was found, if anybody looked."""
    rows = board_rows(delivery, states)
    last = rows[-1].state.current if rows else None
    cells = []
    for row in rows:
        own = [one for one in drift if one.environment == row.state.name]
        settled = row is not rows[-1] and is_same(row.state.current, last)
        cells.append(_cell(delivery, states, row, person, own, settled=settled))
    return EnvironmentBoard(delivery.app, tuple(cells), person)


def is_same(one: Deployment | None, other: Deployment | None) -> bool:
    """Whether both are there, with the same images."""
    return one is not None and other is not None and one.digests == other.digests


def _cell(
    delivery: Delivery,
    states: States,
    row: BoardRow,
    person: str,
    drift: Sequence[DriftFinding],
    *,
    settled: bool,
) -> BoardCell:
    state, section = row.state, delivery.environment(row.state.name)
    soak = _soak(delivery, states, state)
    following = _next(delivery, row, section, person)
    return BoardCell(
        name=state.name,
        rules=", ".join(_rules(section)),
        current=state.current,
        condition=_condition(row, soak, drift),
        soak=soak,
        canary=row.canary,
        next=following,
        holds=state.holds,
        settled=settled,
        stepwise=section.canary is not None and state.current is not None,
        actions=tuple(_actions(state, section, following)),
    )


def _next(
    delivery: Delivery, row: BoardRow, section: EnvironmentSection, person: str
) -> NextRelease | None:
    if row.candidate is None:
        return None
    possible = row.possible.timestamp() if row.possible else None
    mine = can_approve(delivery, row.state, section, row.candidate, person)
    return NextRelease(row.candidate, row.blockers, possible, mine)


def can_approve(
    delivery: Delivery,
    state: EnvironmentState,
    section: EnvironmentSection,
    chosen: Deployment,
    person: str,
) -> bool:
    """Whether an approval by a person would count."""
    if section.approvals is None or not person:
        return False
    try:
        check_approval(section.approvals, state, chosen, person, source_author(delivery, chosen))
    except ShiplineError:
        return False
    return True


def _soak(delivery: Delivery, states: States, state: EnvironmentState) -> Soak | None:
    """The longest soak that the images are in, for an environment that has others."""
    current, now = state.current, delivery.clock()
    found = None
    for name, section in delivery.environments.items():
        if section.after != state.name or not section.soak or current is None or state.edited:
            continue
        if is_same(states[name].current, current):
            continue
        lasted = state.verified_time(current.digests, now)
        if lasted.running and lasted.seconds < section.soak.seconds:
            soak = Soak(name, lasted.seconds, section.soak.seconds)
            found = soak if found is None or soak.left > found.left else found
    return found


def _condition(row: BoardRow, soak: Soak | None, drift: Sequence[DriftFinding]) -> CellCondition:
    state, current = row.state, row.state.current
    if current is None:
        return CellCondition("", "nothing deployed")
    if state.edited:
        return CellCondition("bad", "changed by hand", state.edited)
    if differs := next((one for one in drift if one.drifted), None):
        reason = f"{differs.place}: {differs.state.replace('_', ' ')}"
        return CellCondition("bad drift", "drift", f"{reason} {differs.detail}".strip())
    if canary := position(state.commits, state.name):
        if canary.is_frozen:
            return CellCondition("warn", "waits", f"the canary is frozen: {canary.last.reason}")
        return CellCondition("run", "starting", f"step {canary.last.step} of a canary")
    if hold := state.held(current.digests):
        return CellCondition("hold", "held", hold.attribution)
    last = state.verification(current.digests) if state.checked else None
    if state.checked and not row.verified:
        if last is None:
            return CellCondition("run", "starting", "not verified yet")
        return CellCondition("bad", "not verified", f"its verification says {last.verdict}")
    if stop := state.stopped:
        return CellCondition("hold", "stopped", f"promotions are stopped {stop.attribution}")
    if current.action is Action.ROLLBACK:
        return CellCondition("bad", "rolled back", current.reason)
    if soak:
        return CellCondition("wait", "soaking")
    return CellCondition("ok", "steady")


def _rules(section: EnvironmentSection) -> Iterator[str]:
    """What an image needs to get there, in short."""
    if section.soak:
        yield f"{section.soak} in {section.after}"
    if section.approvals:
        yield counted(section.approvals.required, "approval")
    if section.gates.required:
        yield f"{counted(len(section.gates.required), 'gate')}"
    yield from map(str, section.windows)
    if section.canary:
        yield "step by step"
    if section.promotion == "manual":
        yield "by hand"


def _actions(
    state: EnvironmentState, section: EnvironmentSection, following: NextRelease | None
) -> Iterator[str]:
    if following and following.mine:
        yield "approve"
    if following and following.ready:
        yield "promote"
    if state.holds:
        yield "release"
    current = state.current
    if current is None:
        return
    going = position(state.commits, state.name)
    here = going.last if going else current
    if not state.held(current.digests):
        yield "hold"
    if next(previous_deployments(state, here), None) is not None:
        yield "rollback"
