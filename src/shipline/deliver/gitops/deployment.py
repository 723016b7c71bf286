"""Deployments as commits of a GitOps repository: made, pushed against others, and read back.

The state of an environment is the history of its repository: what a commit deploys stands in the
trailers of its message (git-interpret-trailers). No database repeats it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache, partial
from typing import Self

from shipline.deliver.gitops.updates import Tree, Update
from shipline.errors import ConfigError, ShiplineError
from shipline.git import Commit, CommittedFile, GitError, RemoteBranch
from shipline.oci import Digest, Reference
from shipline.tasks import sleep
from shipline.units import shown_time
from shipline.values import replace

RECORDS = "shipline/records"
"""The branch of records, where the branch itself is changed by pull requests."""

TreeEdit = Callable[[Tree], Mapping[str, bytes]]
"""Returns the files that change, with their new contents."""

OnRace = Callable[[int], object]
"""Called with the number of an attempt that failed because another push came first."""

_TRIES = 10
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.2, 10.0
_TRAILER = re.compile(r"Shipline-([A-Za-z-]+): (.*)\Z")


class Superseded(ShiplineError):
    """The environment has a newer version already."""

    code = "deploy-superseded"
    title = "superseded"
    exit_code = 9


class Action(StrEnum):
    """What a commit says of an app in an environment."""

    DEPLOY = "deploy"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    APPROVE = "approve"
    HOLD = "hold"
    RELEASE = "release"
    STOP = "stop"
    RESUME = "resume"
    VERIFY = "verify"
    WEIGHT = "weight"

    @property
    def deploys(self) -> bool:
        """Whether the commit sets the images of the environment."""
        return self in (Action.DEPLOY, Action.PROMOTE, Action.ROLLBACK)


_HOLDS = (Action.HOLD, Action.RELEASE)
_STOPS = (Action.STOP, Action.RESUME)
_SUBJECTS = {
    Action.DEPLOY: "deploy {app} {version} to {environment}",
    Action.PROMOTE: "promote {app} {version} from {source} to {environment}",
    Action.ROLLBACK: "roll back {app} to {version} in {environment}",
    Action.APPROVE: "approve {app} {version} for {environment}",
    Action.HOLD: "hold {app} {version} in {environment}",
    Action.RELEASE: "release {app} {version} in {environment}",
    Action.STOP: "stop promotions of {app} to {environment}",
    Action.RESUME: "resume promotions of {app} to {environment}",
    Action.VERIFY: "verify {app} {version} in {environment}: {verdict}",
    Action.WEIGHT: "give {app} {version} {weight} % in {environment}",
}


@dataclass(frozen=True, slots=True)
class Deployment:
    """Images for an environment, and where they come from; or, by its `action`, what else is
    recorded of them. `app` names what is deployed, `commit` is that of the source and `author` the
    author of that; `gates` has verdicts by gate. `source` is the environment that they are
    promoted from, `bypassed` has the rules that were bypassed for them on purpose. `id` is the
    commit in the GitOps repository, `time` its time in seconds since 1970 and `by` its committer,
    once there is one.
    """

    environment: str
    app: str
    images: tuple[Reference, ...] = ()
    commit: str = ""
    previous: tuple[Reference, ...] = ()
    gates: Mapping[str, str] = field(default_factory=dict)
    run: str = ""
    trace: str = ""
    id: str = ""
    time: int = 0
    action: Action = Action.DEPLOY
    author: str = ""
    source: str = ""
    approved_by: tuple[str, ...] = ()
    bypassed: tuple[str, ...] = ()
    reason: str = ""
    verdict: str = ""
    weight: int | None = None
    step: str = ""
    by: str = ""

    @property
    def version(self) -> str:
        """The tags of the images, else the beginning of the digests."""
        names = (
            image.tag or (image.digest.hex[:12] if image.digest else "") for image in self.images
        )
        return ", ".join(dict.fromkeys(names))

    @property
    def digests(self) -> frozenset[Digest]:
        """The digests of the images: what is promoted, approved, held and verified."""
        return frozenset(image.digest for image in self.images if image.digest)

    def without(self, other: Deployment) -> tuple[Reference, ...]:
        """The images that the other deployment does not have: what a rollback to it takes back."""
        return tuple(image for image in self.images if image.digest not in other.digests)

    @property
    def subject(self) -> str:
        """The deployment in one line."""
        names = {name: getattr(self, name) for name in ("app", "version", "environment", "source")}
        verdict, weight = self.verdict, self.weight
        return " ".join(
            _SUBJECTS[self.action].format(**names, verdict=verdict, weight=weight).split()
        )

    @property
    def attribution(self) -> str:
        """Who made the commit, when and why."""
        at = datetime.fromtimestamp(self.time, UTC)
        return f"by {self.by} since {shown_time(at)}" + (f": {self.reason}" if self.reason else "")

    @property
    def message(self) -> str:
        """The message of the commit."""
        gates = [f"{name}={verdict}" for name, verdict in sorted(self.gates.items())]
        values: dict[str, Sequence[object]] = {
            "App": [self.app],
            "Environment": [self.environment],
            "Action": [self.action] if self.action is not Action.DEPLOY else [],
            "Image": self.images,
            "Previous": self.previous,
            "From": [self.source],
            "Commit": [self.commit],
            "Author": [self.author],
            "Gate": gates,
            "Approved-By": self.approved_by,
            "Bypassed": self.bypassed,
            "Verdict": [self.verdict],
            "Weight": [] if self.weight is None else [self.weight],
            "Step": [self.step],
            "Reason": [self.reason],
            "Run": [self.run],
            "Trace": [self.trace],
        }
        lines = [
            f"Shipline-{name}: {text}"
            for name, several in values.items()
            for value in several
            if (text := " ".join(str(value).split()))
        ]
        return "\n".join([self.subject, "", *lines, ""])

    @classmethod
    def of(cls, commit: Commit) -> Self | None:
        """What a commit says; None for one that says nothing, or what cannot be read."""
        values: dict[str, list[str]] = {}
        for line in commit.message.splitlines():
            if match := _TRAILER.match(line):
                values.setdefault(match[1], []).append(match[2])

        def last(name: str) -> str:
            return values.get(name, [""])[-1]

        try:
            action = Action(last("Action") or Action.DEPLOY)
            images = tuple(map(Reference.parse, values.get("Image", ())))
            previous = tuple(map(Reference.parse, values.get("Previous", ())))
            weight = int(last("Weight")) if last("Weight") else None
        except (ShiplineError, ValueError):
            return None
        if not (last("App") and last("Environment") and (images or not action.deploys)):
            return None
        return cls(
            environment=last("Environment"),
            app=last("App"),
            images=images,
            commit=last("Commit"),
            previous=previous,
            gates=dict(gate.partition("=")[::2] for gate in values.get("Gate", ())),
            run=last("Run"),
            trace=last("Trace"),
            id=commit.sha,
            time=commit.time,
            action=action,
            author=last("Author"),
            source=last("From"),
            approved_by=tuple(values.get("Approved-By", ())),
            bypassed=tuple(values.get("Bypassed", ())),
            reason=last("Reason"),
            verdict=last("Verdict"),
            weight=weight,
            step=last("Step"),
            by=commit.committer,
        )


def history(branch: RemoteBranch, tip: str, app: str, environment: str = "") -> list[Deployment]:
    """What the commits up to `tip`, and those of the branch of records as it was fetched, say of an
    app, in one environment or in all; newest first.
    """
    lines = [f"Shipline-App: {app}"]
    lines += [f"Shipline-Environment: {environment}"] if environment else []
    tips = [commit for commit in (tip, branch.local_tip(RECORDS)) if commit]
    return [found for commit in branch.log(tips, lines) if (found := Deployment.of(commit))]


def record(
    branch: RemoteBranch,
    app: str,
    make: Callable[[Sequence[Deployment]], Deployment | None],
    *,
    edits: Callable[[Deployment], Sequence[TreeEdit]] = lambda made: (),
    then: Sequence[Deployment] = (),
    proposed: bool = False,
    sign: bool = False,
    check: Callable[[str], object] = lambda commit: None,
    on_race: OnRace = lambda attempt: None,
) -> Deployment | None:
    """Commit and push what `make` says of the history of the app, with the changes of files that
    belong to it, if any, and `then` more records in the same push; None if it says nothing. Where
    others push first, it is asked again. With `proposed`, for branches that are changed by pull
    requests, the commit goes to the branch of records instead. `check` sees the commit before it is
    pushed.

    Raises what `make` and `check` raise, PushRefused, and GitError if others are always faster.
    """
    for _ in tries(branch, on_race):
        tip = branch.fetch(RECORDS)
        made = make(history(branch, tip, app))
        if made is None:
            return None
        there = branch.local_tip(RECORDS) if proposed else ""
        parts = edits(made)
        files = branch.files(tip) if parts else {}
        changes = changed_files(branch, files, parts)
        commit = head = branch.commit(there or tip, files, changes, made.message, sign=sign)
        for one in then:
            head = branch.commit(head, {}, {}, one.message, sign=sign)
        check(commit)
        to = {"to": RECORDS, "replaces": there} if proposed else {}
        if branch.push(head, **to):
            return replace(made, id=commit)
    return None


def tries(branch: RemoteBranch, on_race: OnRace) -> Iterator[int]:
    """Numbers of attempts, with a pause before each but the first. Raises GitError after the last,
    since others pushed first each time.
    """
    for attempt in range(1, _TRIES + 1):
        yield attempt
        on_race(attempt)
        sleep(min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5))
    raise GitError(
        f"{branch.shown}: others pushed first, {_TRIES} times",
        code="gitops-contended",
        hint="try again once fewer push there",
        retriable=True,
    )


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """What to do, given a history: the deployment with its images by target, other `edits` in the
    same commit, and what to record in the same push. Without images nothing is done, since
    `deployment` is there already.
    """

    deployment: Deployment
    images: Mapping[str, Reference]
    records: tuple[Deployment, ...] = ()
    edits: tuple[TreeEdit, ...] = ()


Decide = Callable[[Sequence[Deployment]], PlannedChange]
"""A decision from the history of the app, newest first; raises to refuse."""


def deployed(commits: Sequence[Deployment], environment: str) -> Deployment | None:
    """The newest deployment to an environment."""
    found = (one for one in commits if one.environment == environment and one.action.deploys)
    return next(found, None)


def held(commits: Sequence[Deployment], digests: frozenset[Digest]) -> Deployment | None:
    """The commit that holds one of these digests in an environment, unless it was released;
    `commits` are those about the environment, newest first.
    """
    for digest in sorted(digests, key=str):
        ends = (one for one in commits if digest in one.digests and one.action in _HOLDS)
        if (last := next(ends, None)) and last.action is Action.HOLD:
            return last
    return None


def stopped(commits: Sequence[Deployment]) -> Deployment | None:
    """The commit that stops promotions to an environment, unless they were resumed."""
    last = next((one for one in commits if one.action in _STOPS), None)
    return last if last and last.action is Action.STOP else None


@dataclass(frozen=True, slots=True)
class Deployed:
    """The result: the commit, empty if the images were there already, and the changed files with
    their contents before and after. `head` is the commit to push, with the records after it.
    `address` is that of the pull request that proposes it.
    """

    deployment: Deployment
    files: Mapping[str, tuple[bytes, bytes]]
    head: str = ""
    records: tuple[Deployment, ...] = ()
    address: str = ""

    @property
    def commit(self) -> str:
        return self.deployment.id


def prepare(
    branch: RemoteBranch, updates: Sequence[Update], app: str, decide: Decide, *, sign: bool = False
) -> Deployed:
    """The commits for the present tip of the branch, not pushed.

    Raises what `decide` raises, ConfigError for an update without an image, UnsuitableFile where
    one cannot be set.
    """
    tip = branch.fetch(RECORDS)
    commits = history(branch, tip, app)
    decision = decide(commits)
    files = branch.files(tip)
    parts = [*image_edits(updates, decision.images), *decision.edits] if decision.images else []
    changes = changed_files(branch, files, parts)
    if not changes and not decision.records:
        return Deployed(decision.deployment, {})
    before = deployed(commits, decision.deployment.environment)
    made = replace(decision.deployment, previous=before.images if before else ())
    commit = head = branch.commit(tip, files, changes, made.message, sign=sign)
    for one in decision.records:
        head = branch.commit(head, {}, {}, one.message, sign=sign)
    shown = {path: (branch.read(files[path]), content) for path, content in changes.items()}
    return Deployed(replace(made, id=commit), shown, head, decision.records)


def image_edits(updates: Sequence[Update], images: Mapping[str, Reference]) -> list[TreeEdit]:
    """The edits that set the images, by target. Raises ConfigError for an update without one."""
    for update in updates:
        if update.target not in images:
            raise ConfigError(
                f"{update.kind}: there is no image of the target {update.target!r}:"
                f" {', '.join(images)}",
                code="deployment-image",
                hint="with `targets` each update names its `target`, whose image is deployed",
            )
    return [partial(update.apply, image=images[update.target]) for update in updates]


def changed_files(
    branch: RemoteBranch, files: Mapping[str, CommittedFile], edits: Sequence[TreeEdit]
) -> dict[str, bytes]:
    """The files that change by all edits, one after the other."""
    contents = {path: partial(branch.read, file) for path, file in files.items()} if edits else {}
    changes: dict[str, bytes] = {}
    for edit in edits:
        changes |= edit(
            {**contents, **{path: partial(bytes, new) for path, new in changes.items()}}
        )
    return changes


def require_same_images(
    branch: RemoteBranch,
    updates: Sequence[Update],
    images: Mapping[str, Reference],
    before: Deployment | None,
) -> None:
    """Raises UnsuitableFile if the files of the branch as it was fetched have images of other
    repositories than those that are to be set, unless `before` brought them.
    """
    files = branch.files(branch.local_tip(branch.name))
    tree = {path: partial(branch.read, file) for path, file in files.items()}
    known = {image.name for image in before.images} if before else set()
    for update in updates:
        if update.target in images:
            update.require_same(tree, images[update.target], known)


def changed_by_hand(
    branch: RemoteBranch, tip: str, edits: Sequence[TreeEdit], since: str = ""
) -> str:
    """Which file at the tip lacks what `edits` set, and who changed it last; empty if none does.
    With `since`, a commit, files count that differ from those of that commit.
    """
    if tip == since:
        return ""
    files = branch.files(tip)
    before = branch.files(since) if since else {}
    if files == before:
        return ""
    try:
        changed = changed_files(branch, files, edits)
    except ShiplineError as error:
        return error.message
    paths = sorted(path for path in changed if files[path] != before.get(path))
    return f"{paths[0]} differs since {branch.last_change(tip, paths[0])}" if paths else ""


@dataclass(frozen=True, slots=True)
class HandEdit:
    """A commit that changed the images of an environment, and that shipline did not make. `present`
    is what its files have in their place: names, tags, digests; none where they have no such place.
    """

    environment: str
    app: str
    commit: Commit
    present: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.commit.sha

    @property
    def time(self) -> int:
        return self.commit.time

    @property
    def by(self) -> str:
        return self.commit.committer

    @property
    def reason(self) -> str:
        return self.commit.subject

    @property
    def subject(self) -> str:
        """The change in one line."""
        set_to = f"set to {' '.join(self.present)}" if self.present else "taken out"
        return f"changed by hand: {self.app} {set_to} in {self.environment}"


def with_hand_edits(
    branch: RemoteBranch,
    updates: Sequence[Update],
    images: Mapping[str, Reference],
    commits: Sequence[Deployment],
) -> list[Deployment | HandEdit]:
    """What was recorded of an environment, `commits`, newest first, and between them what was
    changed by hand since the oldest of them, on the branch as it was fetched. `images` are those to
    look for, by target.
    """
    if not commits:
        return []

    @cache
    def present(commit: str) -> tuple[str, ...]:
        tree = {path: partial(branch.read, file) for path, file in branch.files(commit).items()}
        texts: list[str] = []
        for update in updates:
            with suppress(ShiplineError):
                texts += update.present(tree, images[update.target])
        return tuple(text.strip().strip("\"'") for text in texts)

    tip, oldest = branch.local_tip(branch.name), commits[-1]
    known = {one.id: one for one in commits}
    places = [update.place for update in updates]
    touching = branch.changes(tip, places, since=oldest.id)
    edits = {
        one.sha: HandEdit(oldest.environment, oldest.app, one, present(one.sha))
        for one in touching
        if one.sha not in known and all(present(one.sha) != present(old) for old in one.parents)
    }
    if not edits:
        return [*commits]
    found: dict[str, Deployment | HandEdit] = {**known, **edits}
    return [found[one] for one in branch.ordered([tip, branch.local_tip(RECORDS)]) if one in found]


def deploy(
    branch: RemoteBranch,
    updates: Sequence[Update],
    app: str,
    decide: Decide,
    *,
    sign: bool = False,
    on_race: OnRace = lambda attempt: None,
) -> Deployed:
    """Set the images, commit and push. Where others push first, it is decided again, and the images
    are set in the new tip, after a moment: nothing of theirs is merged or lost. See `prepare` for
    errors; raises PushRefused, and GitError if others are always faster.
    """
    for _ in tries(branch, on_race):
        done = prepare(branch, updates, app, decide, sign=sign)
        if not done.commit or branch.push(done.head):
            break
    return done
