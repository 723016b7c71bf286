"""Promotions, approvals, holds and rollbacks: commits that the policy of an environment allows, in
the history that they are pushed to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from shipline.deliver.canary.state import position
from shipline.deliver.canary.weights import left as left_by_canary
from shipline.deliver.delivery import Delivery
from shipline.deliver.environments import Approvals, EnvironmentSection
from shipline.deliver.gitops import (
    RECORDS,
    Action,
    Deployed,
    Deployment,
    GitOpsSection,
    HandEdit,
    OnRace,
    PlannedChange,
    changed_by_hand,
    history,
    image_edits,
    record,
    require_same_images,
    with_hand_edits,
)
from shipline.deliver.promotion.evidence import judged_gates
from shipline.deliver.promotion.policy import (
    Blocker,
    Candidate,
    PromotionPolicy,
    PromotionRefused,
    address,
    approvers,
    blockers,
    mailbox,
    may_approve,
    require,
    stops,
)
from shipline.deliver.promotion.state import Digests, EnvironmentState, recorded_times
from shipline.errors import MissingFlag, ShiplineError, UsageError
from shipline.git import SIGNING, GitError, RemoteBranch, author_of
from shipline.oci import Reference
from shipline.propagation import traceparent
from shipline.trust import TrustRefused
from shipline.values import replace

_SHORT = 7  # digits of a commit or digest that name an image
_FIRM = ("hold", "stop")  # rules that no emergency bypasses

States = Mapping[str, EnvironmentState]
"""States by the name of the environment."""


def read_states(delivery: Delivery, names: Iterable[str] = ()) -> dict[str, EnvironmentState]:
    """The states of environments as their repositories have them now, by default of all."""
    found: dict[str, EnvironmentState] = {}
    wanted = [*names] or [*delivery.environments]
    for name in wanted:
        if name in found:
            continue
        gitops = delivery.environment(name).gitops
        with delivery.branch(gitops) as branch:
            commits = history(branch, branch.fetch(RECORDS), delivery.app)
            found |= states_on(delivery, gitops, branch, commits)
    return {name: found[name] for name in wanted}


def read_history(delivery: Delivery, name: str, count: int) -> list[Deployment | HandEdit]:
    """The last `count` commits about an environment, newest first, with those by hand."""
    gitops = delivery.environment(name).gitops
    with delivery.branch(gitops) as branch:
        commits = history(branch, branch.fetch(RECORDS), delivery.app)
        state = states_on(delivery, gitops, branch, commits)[name]
        recent = state.commits[:count]
        if state.current is None:
            return [*recent]
        images = delivery.by_target(state.current.images)
        return with_hand_edits(branch, gitops.updates, images, recent)[:count]


def states_on(
    delivery: Delivery, gitops: GitOpsSection, branch: RemoteBranch, commits: Sequence[Deployment]
) -> dict[str, EnvironmentState]:
    """The states of all environments that are described on the branch of one of them, from the
    history of the branch.
    """
    times = recorded_times(commits, delivery.clock())
    tip = branch.local_tip(branch.name)
    states = {}
    for name, section in delivery.environments.items():
        if delivery.same_branch(section.gitops, gitops):
            own = [one for one in commits if one.environment == name]
            parts: dict[bool, list[Deployment]] = {True: [], False: []}
            for one in own:
                parts[_is_proven(delivery, branch, section, one)].append(one)
            edited = changes_by_hand(delivery, section, branch, tip, own)
            states[name] = EnvironmentState(
                name, tuple(parts[True]), times, section.checked, tuple(parts[False]), edited
            )
    return states


def changes_by_hand(
    delivery: Delivery,
    section: EnvironmentSection,
    branch: RemoteBranch,
    tip: str,
    own: Sequence[Deployment],
) -> str:
    """Why the files do not have what was deployed last, or what a canary left, and who changed
    them; empty if they do.
    """
    last = next((one for one in own if one.action.deploys), None)
    if last is None:
        return ""
    updates, since = section.gitops.updates, ""
    images = delivery.by_target(last.images)
    here = position(own, last.environment)
    try:
        if here is None:
            edits = image_edits(updates, images)
        elif section.canary:
            new, since = delivery.by_target(here.last.images), here.last.id
            edits = left_by_canary(section.canary, updates, here.last.weight or 0, new, images)
        else:
            return ""
    except ShiplineError as error:
        return error.message
    return changed_by_hand(branch, tip, edits, since)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRequest:
    """What to promote to `environment`, and which of its rules not to apply.

    The images are those of the environment `source`, by default the one before it; or `image`, a
    digest, tag or commit that was deployed before, or the name of an image in the registry; or
    those of the deployment `chosen`, with `images` by target if they are trusted already. If `seen`
    is given, other images are refused.

    `automatic` promotions are not made by a person. `allow_older` bypasses the order of commits;
    an `emergency`, a reason, all other rules but holds and stops. Images of other repositories in
    the files are replaced only with `replace_image`, unless the last deployment set them. With
    `again`, the files are set even if the environment has the images already.
    """

    environment: str
    source: str = ""
    image: str = ""
    chosen: Deployment | None = None
    images: Mapping[str, Reference] | None = None
    seen: Digests | None = None
    automatic: bool = False
    allow_older: bool = False
    emergency: str = ""
    replace_image: bool = False
    again: bool = False


def promote(
    delivery: Delivery,
    request: PromotionRequest,
    *,
    dry_run: bool = False,
    on_race: OnRace = lambda attempt: None,
) -> Deployed:
    """Set the images in the environment, if its policy allows it. Nothing is committed if the
    environment has them already, unless its files were edited since. A canary in the environment
    ends with the change; blockers that its images had to wait for do not apply to them again.

    Raises PromotionRefused, Waiting, TrustRefused, UnsuitableFile, and what `Delivery.change`
    raises.
    """
    name = request.environment
    section = delivery.environment(name)
    source = request.source or section.after
    states = _read_for(delivery, request.image, name, section.after, request.source)
    chosen = request.chosen or _chosen(delivery, states, source, request.image)
    _require_seen(request.seen, chosen, source)
    images = request.images
    if images is None:
        images = delivery.trusted(delivery.by_target(chosen.images)).images
    candidate = _judged(delivery, chosen)
    planned = Deployment(
        environment=name,
        app=delivery.app,
        images=tuple(images.values()),
        commit=chosen.commit,
        gates=_gate_lines(candidate),
        run=chosen.run,
        trace=traceparent() or chosen.trace,
        action=Action.PROMOTE if source and not request.emergency else Action.DEPLOY,
        author=candidate.author,
        source="" if request.emergency else source,
        reason=request.emergency,
    )

    def decide(branch: RemoteBranch, commits: Sequence[Deployment]) -> PlannedChange:
        known = {**states, **states_on(delivery, section.gitops, branch, commits)}
        state = known[name]
        if not request.replace_image:
            require_same_images(branch, section.gitops.updates, images, state.current)
        if state.current is None or state.current.digests != planned.digests:
            return PlannedChange(_allowed(delivery, request, known, candidate, planned), images)
        if not (request.again or state.edited):
            return PlannedChange(planned, {})
        policy = policy_of(delivery, name)
        require(policy, planned.version, [*stops(policy, known, candidate)], _now(delivery))
        return PlannedChange(planned, images)

    return delivery.change(section.gitops, delivery.app, decide, dry_run=dry_run, on_race=on_race)


def _allowed(
    delivery: Delivery,
    request: PromotionRequest,
    states: States,
    candidate: Candidate,
    planned: Deployment,
) -> Deployment:
    """`planned`, with those who approved it and the rules that were bypassed for it. Raises
    PromotionRefused or Waiting if the policy of the environment does not allow it.
    """
    policy = policy_of(delivery, request.environment, automatic=request.automatic)
    state, now = states[request.environment], _now(delivery)
    found = [*blockers(policy, states, candidate, now)]
    canary = position(state.commits, request.environment)
    if canary and canary.last.digests == planned.digests:
        found = [one for one in found if not one.waits]
    bypassed = [one for one in found if request.emergency and one.rule not in _FIRM]
    order = [*_order(delivery, state.current, planned, asked=not request.allow_older)]
    bypassed += order if request.allow_older else []
    require(policy, planned.version, [one for one in [*found, *order] if one not in bypassed], now)
    rule = policy.section.approvals
    people = approvers(rule, state, candidate) if rule else ()
    rules = tuple(dict.fromkeys(one.rule for one in bypassed))
    return replace(planned, approved_by=people, bypassed=rules)


def rollback(
    delivery: Delivery,
    name: str,
    *,
    image: str = "",
    reason: str = "",
    seen: Digests | None = None,
    dry_run: bool = False,
    on_race: OnRace = lambda attempt: None,
) -> Deployed:
    """Set the images that were verified in the environment before the present ones, or `image`, and
    hold those of the present ones that this takes back, in one push. While there is a canary, its
    images are the present ones. With `seen`, only if these are. Neither windows, approvals nor a
    stop delay it.

    Raises PromotionRefused if there is nothing to go back to, or if the present ones are the result
    of a rollback and no image is named; TrustRefused, NotFound.
    """
    section = delivery.environment(name)

    def decide(branch: RemoteBranch, commits: Sequence[Deployment]) -> PlannedChange:
        state = states_on(delivery, section.gitops, branch, commits)[name]
        current, left = state.current, position(state.commits, name)
        if current is None:
            raise UsageError(
                f"nothing of {delivery.app} was deployed to {name}", code="deployment-missing"
            )
        stable, current = current, left.last if left else current
        _require_seen(seen, current, name)
        if image:
            target = _named(state, image)
        elif left:
            target = stable
        else:
            target = _before(state, current)
        if target.digests == current.digests:
            raise UsageError(f"{name} has {target.version} already", code="deployment-current")
        why = reason or f"rolled back to {target.version}"
        made = _about(delivery, name, Action.ROLLBACK, target, reason)
        bad = replace(current, images=current.without(target))
        hold = _about(delivery, name, Action.HOLD, bad, why)
        images = delivery.trusted(delivery.by_target(target.images)).images
        return PlannedChange(made, images, () if state.held(bad.digests) else (hold,))

    return delivery.change(section.gitops, delivery.app, decide, dry_run=dry_run, on_race=on_race)


def approve(
    delivery: Delivery,
    name: str,
    *,
    image: str = "",
    reason: str = "",
    seen: Digests | None = None,
    on_race: OnRace = lambda attempt: None,
) -> Deployment:
    """Approve images for an environment, by default those of the environment before it, in the name
    of the user of git here; with `seen`, only if it is these. Raises PromotionRefused if this
    person's approval does not count.
    """
    section = delivery.environment(name)
    rule = section.approvals
    if rule is None:
        raise UsageError(
            f"{name} needs no approvals",
            code="approval-not-needed",
            hint="`approvals` says who must approve",
        )
    states = _read_for(delivery, image, name, section.after)
    chosen = _chosen(delivery, states, section.after, image)
    _require_seen(seen, chosen, section.after)
    author = source_author(delivery, chosen)

    def make(branch: RemoteBranch, state: EnvironmentState) -> Deployment:
        check_approval(rule, state, chosen, branch.committer, author)
        return _about(delivery, name, Action.APPROVE, chosen, reason)

    def check(branch: RemoteBranch, commit: str) -> None:
        if rule.signers and not _is_signed(delivery, branch, rule.signers, commit):
            raise GitError(
                f"the approval is not signed by a key of {address(branch.committer)} in"
                f" {rule.signers}",
                code="approval-unsigned",
                hint=SIGNING,
            )

    made = _record(delivery, name, make, sign=bool(rule.signers), check=check, on_race=on_race)
    assert made is not None
    return made


def check_approval(
    rule: Approvals, state: EnvironmentState, chosen: Deployment, person: str, author: str
) -> None:
    """Raises UsageError if the environment has the images already, PromotionRefused if an approval
    by a person would not count.
    """
    if state.current and state.current.digests == chosen.digests:
        raise UsageError(f"{state.name} has {chosen.version} already", code="deployment-current")
    if hold := state.held(chosen.digests):
        raise PromotionRefused(
            f"{chosen.version} is held in {state.name} {hold.attribution}",
            hint=f"`shipline release --env {state.name}` releases it",
        )
    if problem := may_approve(rule, person, author):
        raise PromotionRefused(f"this approval would not count: {problem}")
    if mailbox(person) in [mailbox(one.by) for one in state.approvals(chosen.digests)]:
        raise PromotionRefused(
            f"{address(person)} has approved {chosen.version} for {state.name} already",
            hint="another person must approve it",
        )


def hold(
    delivery: Delivery,
    name: str,
    *,
    image: str = "",
    reason: str = "",
    seen: Digests | None = None,
    on_race: OnRace = lambda attempt: None,
) -> Deployment | None:
    """Keep images out of an environment, by default those that it has; with `seen`, only if it is
    these. None if they are held.
    """
    states = _read_for(delivery, image)

    def make(branch: RemoteBranch, state: EnvironmentState) -> Deployment | None:
        chosen = _chosen(delivery, {**states, name: state}, name, image)
        _require_seen(seen, chosen, name)
        if state.held(chosen.digests):
            return None
        return _about(delivery, name, Action.HOLD, chosen, reason)

    return _record(delivery, name, make, on_race=on_race)


def release(
    delivery: Delivery,
    name: str,
    *,
    image: str = "",
    reason: str = "",
    seen: Digests | None = None,
    on_race: OnRace = lambda attempt: None,
) -> Deployment | None:
    """End a hold, by default the only one, with `seen` that of these images; None if nothing is
    held. Raises UsageError if there are several.
    """

    def make(branch: RemoteBranch, state: EnvironmentState) -> Deployment | None:
        holds = state.holds
        if image:
            chosen = _chosen(delivery, {name: state}, name, image)
            holds = tuple(one for one in holds if one.digests & chosen.digests)
        if seen is not None:
            holds = tuple(one for one in holds if one.digests == seen)
        if len(holds) > 1:
            versions = ", ".join(one.version for one in holds)
            raise UsageError(
                f"several are held in {name}: {versions}", code="image-ambiguous", hint="name one"
            )
        return _about(delivery, name, Action.RELEASE, holds[0], reason) if holds else None

    return _record(delivery, name, make, on_race=on_race)


def set_stopped(
    delivery: Delivery, name: str, stopped: bool, *, reason: str = ""
) -> Deployment | None:
    """Stop all promotions to an environment, or allow them again; None if that is so already."""
    action = Action.STOP if stopped else Action.RESUME

    def make(branch: RemoteBranch, state: EnvironmentState) -> Deployment | None:
        if bool(state.stopped) == stopped:
            return None
        return Deployment(name, delivery.app, action=action, reason=reason)

    return _record(delivery, name, make)


def blocked(
    delivery: Delivery, states: States, name: str, chosen: Deployment, *, judged: bool = True
) -> tuple[Blocker, ...]:
    """Why images may not be promoted to an environment now. Without `judged`, neither trust nor
    gates are asked of the registry.
    """
    policy = policy_of(delivery, name)
    now = _now(delivery)
    if not judged:
        section = replace(policy.section, gates=type(policy.section.gates)())
        candidate = Candidate(chosen.digests, chosen.version, source_author(delivery, chosen))
        return blockers(replace(policy, section=section), states, candidate, now)
    try:
        delivery.trusted(delivery.by_target(chosen.images))
    except ShiplineError as error:
        rule = "trust" if isinstance(error, TrustRefused) else "registry"
        return (
            Blocker(rule, error.message, hint=error.hint),
            *blocked(delivery, states, name, chosen, judged=False),
        )
    return blockers(policy, states, _judged(delivery, chosen), now)


def _order(
    delivery: Delivery, before: Deployment | None, planned: Deployment, *, asked: bool
) -> Iterator[Blocker]:
    """Whether a descendant of the source commit is deployed. Unless `asked`, a clone that cannot
    tell is not an error.
    """
    ours, theirs = planned.commit, before.commit if before else ""
    if before is None or not ours or not theirs or ours == theirs:
        return
    try:
        older = delivery.older(ours, theirs)
    except GitError:
        if asked:
            raise
        older = True
    if older:
        yield Blocker(
            "order",
            f"{before.environment} has {before.app} {before.version} already, of the newer commit"
            f" {theirs[:12]}",
            hint="deploy an older version on purpose with --allow-older",
        )


def policy_of(delivery: Delivery, name: str, *, automatic: bool = False) -> PromotionPolicy:
    """The rules of an environment."""
    where = delivery.gates.environments() if delivery.gates else {}
    return PromotionPolicy(name, delivery.environment(name), where, automatic)


def _read_for(delivery: Delivery, image: str, *names: str) -> dict[str, EnvironmentState]:
    """The states of environments; of all, where one may have the named image."""
    wanted = [*delivery.environments] if image else [*filter(None, names)]
    return read_states(delivery, wanted) if wanted else {}


def _chosen(delivery: Delivery, states: States, source: str, image: str) -> Deployment:
    """The deployment that was meant: of the named image, else the present one of `source`."""
    if image:
        return _in_history(states, image) or _in_registry(delivery, image)
    if not source:
        raise MissingFlag(
            "it comes after no environment: name an image",
            hint="`after` names the environment before it; `shipline deploy` is for the first one",
        )
    current = states[source].current
    if current is None:
        raise UsageError(
            f"nothing of {delivery.app} was deployed to {source}",
            code="deployment-missing",
            hint=f"`shipline deploy --env {source}` deploys it",
        )
    return current


def _require_seen(seen: Digests | None, chosen: Deployment, where: str) -> None:
    """Raises PromotionRefused for other images than those that somebody looked at."""
    if seen is not None and chosen.digests != seen:
        raise PromotionRefused(
            f"{where} has {chosen.version} now, which is another image",
            hint="look at it, and decide again",
        )


def _in_history(states: States, word: str) -> Deployment | None:
    """The newest deployment with a digest, several with commas between, a tag, or the beginning of
    a commit.
    """
    words = word.split(",")
    digests = {one.rpartition("@")[2] for one in words if "@" in one or one.startswith("sha256:")}
    tag = word.rpartition("/")[2].rpartition(":")[2]
    for one in (one for state in states.values() for one in state.commits):
        if not one.images:
            continue
        if digests and digests <= set(map(str, one.digests)):
            return one
        if not digests and (
            any(image.tag == tag and _same_place(image, word) for image in one.images)
            or (len(word) >= _SHORT and _begins(word, one))
        ):
            return one
    return None


def _begins(word: str, one: Deployment) -> bool:
    """Whether a word is the beginning of the source commit or of a digest."""
    return any(text.startswith(word) for text in (one.commit, *(d.hex for d in one.digests)))


def _same_place(image: Reference, word: str) -> bool:
    """Whether an image with the tag of a word is in the repository that the word names, if any."""
    return "/" not in word or Reference.parse(word).name == image.name


def _in_registry(delivery: Delivery, word: str) -> Deployment:
    if "/" not in word:
        raise UsageError(
            f"{word!r} was never deployed here",
            code="deployment-missing",
            hint="write a digest, a tag or a commit that was, or the whole name of an image",
        )
    image = Reference.parse(word).or_latest
    return delivery.deployment("", delivery.trusted(delivery.by_target([image])))


def previous_deployments(state: EnvironmentState, current: Deployment) -> Iterator[Deployment]:
    """What `rollback` may go back to, each once, newest first, the default before the others."""
    seen = {current.digests}
    for one in state.deployments:
        if one.digests not in seen and _is_good(state, one):
            seen.add(one.digests)
            yield one


def _named(state: EnvironmentState, word: str) -> Deployment:
    """A verified deployment of the environment by a word, to go back to."""
    found = _in_history({state.name: state}, word)
    before = [one for one in state.deployments if found and one.digests == found.digests]
    if not before:
        raise UsageError(f"{word!r} was never deployed to {state.name}", code="deployment-missing")
    if not _is_good(state, before[0]):
        raise PromotionRefused(f"{before[0].version} is held in {state.name}, or not verified")
    return before[0]


def _before(state: EnvironmentState, current: Deployment) -> Deployment:
    """The last verified deployment before the present one."""
    again = f"`shipline rollback --env {state.name} IMAGE` goes to another one"
    if current.action is Action.ROLLBACK:
        raise PromotionRefused(
            f"{state.name} was rolled back to {current.version} already, by {current.by}",
            hint=again,
        )
    for one in previous_deployments(state, current):
        return one
    raise PromotionRefused(f"{state.name} had nothing verified before {current.version}")


def _is_good(state: EnvironmentState, one: Deployment) -> bool:
    return state.verified(one.digests) is not None and state.held(one.digests) is None


def _about(
    delivery: Delivery, name: str, action: Action, chosen: Deployment, reason: str
) -> Deployment:
    """A commit about the images of a deployment."""
    return Deployment(
        environment=name,
        app=delivery.app,
        images=chosen.images,
        commit=chosen.commit,
        author=chosen.author,
        run=chosen.run if action.deploys else "",
        action=action,
        reason=reason,
        trace=traceparent(),
    )


def _record(
    delivery: Delivery,
    name: str,
    make: Callable[[RemoteBranch, EnvironmentState], Deployment | None],
    *,
    sign: bool = False,
    check: Callable[[RemoteBranch, str], object] = lambda branch, commit: None,
    on_race: OnRace = lambda attempt: None,
) -> Deployment | None:
    """Commit what is said about an environment, in its repository."""
    gitops = delivery.environment(name).gitops
    with delivery.branch(gitops) as branch:
        return record(
            branch,
            delivery.app,
            lambda commits: make(branch, states_on(delivery, gitops, branch, commits)[name]),
            proposed=gitops.pull_request,
            sign=sign or gitops.sign,
            check=lambda commit: check(branch, commit),
            on_race=on_race,
        )


def _is_proven(
    delivery: Delivery, branch: RemoteBranch, section: EnvironmentSection, one: Deployment
) -> bool:
    """Whether a commit may be by whom it says: approvals may have to be signed."""
    signers = section.approvals.signers if section.approvals else ""
    return (
        one.action is not Action.APPROVE
        or not signers
        or _is_signed(delivery, branch, signers, one.id, one.by)
    )


def _is_signed(
    delivery: Delivery, branch: RemoteBranch, signers: str, commit: str, person: str = ""
) -> bool:
    who = branch.signer(commit, delivery.root / signers)
    return bool(who) and who.lower() == address(person or branch.committer)


def _judged(delivery: Delivery, chosen: Deployment) -> Candidate:
    gates = judged_gates(delivery, chosen.images)
    return Candidate(chosen.digests, chosen.version, source_author(delivery, chosen), gates)


def _gate_lines(candidate: Candidate) -> dict[str, str]:
    """The verdicts for the message of a commit; those of several images name their digests."""
    several = len(candidate.gates) > 1
    return {
        f"{name}@{digest[7:19]}" if several else name: f"{judged.outcome}: {judged.reason}"
        for digest, gates in candidate.gates.items()
        for name, judged in gates.items()
    }


def source_author(delivery: Delivery, chosen: Deployment) -> str:
    """The author of the source: as the clone has it, else as it was recorded."""
    return (author_of(delivery.git, chosen.commit) if chosen.commit else "") or chosen.author


def _now(delivery: Delivery) -> datetime:
    return datetime.fromtimestamp(delivery.clock(), UTC)
