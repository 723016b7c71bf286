"""Releases: images that were built or deployed, and all that is known of one of them.

What git says is one read for all pages; what registries say (registry_evidence.py) is asked for one
release alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from shipline.deliver.delivery import Delivery
from shipline.deliver.environments import in_order
from shipline.deliver.gitops import Action, Deployment
from shipline.deliver.promotion import Blocker, EnvironmentState, blocked, possible_at
from shipline.deliver.promotion.board import BoardRow
from shipline.deliver.promotion.state import Digests
from shipline.git import GitError, read_commit
from shipline.history import RunState
from shipline.oci import Reference
from shipline.ui.project import digests_word

States = Mapping[str, EnvironmentState]
_SHORT = 7  # digits of a digest or commit that name a release
_UNENDED = (RunState.RUNNING, RunState.PENDING)
_RUNS = 200  # of this machine, whose images are listed


@dataclass(frozen=True, slots=True)
class KnownRelease:
    """Images that were built together, with the commit of their source. `run` is that of this
    machine that built them, `places` the environments that have them, `at` the time of the last
    thing that happened to them. `failure` says why that run ended without naming them: no gate may
    have passed them.
    """

    images: tuple[Reference, ...]
    digests: Digests
    version: str
    commit: str
    author: str
    run: str
    at: float
    places: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    deployed: bool = True
    failure: str = ""

    @property
    def word(self) -> str:
        """What names it, and no other release that has one of its images: its address has it."""
        return digests_word(self.digests)

    def image(self, name: str) -> Reference:
        """Its image of that name, which is one of them."""
        return next(one for one in self.images if one.name == name)


def common_names(one: KnownRelease, other: KnownRelease) -> list[str]:
    """The names of images that both have."""
    names = {image.name for image in one.images}
    return [image.name for image in other.images if image.name in names]


def all_releases(states: States, built: Iterable[KnownRelease]) -> list[KnownRelease]:
    """Everything that was deployed, and what was `built` besides, the newest first. Of runs that
    built the same, it is the last one that named it, else the last.
    """
    by_digests: dict[Digests, list[Deployment]] = {}
    for one in (one for state in states.values() for one in state.commits):
        if one.digests:
            by_digests.setdefault(one.digests, []).append(one)
    held = {name: state.held_digests for name, state in states.items()}
    found = [_release(states, held, *one) for one in by_digests.items()]
    others: dict[Digests, KnownRelease] = {}
    for run in sorted(built, key=lambda one: (not one.failure, one.at)):
        others[run.digests] = run
    found += [one for digests, one in others.items() if digests not in by_digests]
    return sorted(found, key=lambda one: one.at, reverse=True)


def _release(
    states: States, held: Mapping[str, Digests], digests: Digests, commits: Sequence[Deployment]
) -> KnownRelease:
    newest = max(commits, key=lambda one: one.time)
    here = [
        name for name, state in states.items() if state.current and state.current.digests == digests
    ]
    return KnownRelease(
        images=tuple(sorted(newest.images, key=str)),
        digests=digests,
        version=newest.version,
        commit=next((one.commit for one in commits if one.commit), ""),
        author=next((one.author for one in commits if one.author), ""),
        run=next((one.run for one in commits if one.run), ""),
        at=newest.time,
        places=tuple(here),
        held=tuple(name for name, there in held.items() if there & digests),
    )


def built_releases(delivery: Delivery) -> Iterator[KnownRelease]:
    """What runs on this machine pushed to the repositories of this project, from whatever clone,
    the newest first.
    """
    from shipline.ship.runs import Runs
    from shipline.ship.steps.build import pushed_images
    from shipline.ship.steps.publish import names_of, version_of

    for run in islice(Runs(delivery.home).all(), _RUNS):
        own = {
            target: repository
            for target, repository in delivery.targets.items()
            if run.repositories.get(target) == str(repository)
        }
        images = [
            own[target].at(one.digest)
            for target, one in (pushed_images(run) if own else {}).items()
            if target in own
        ]
        if images:
            digests = frozenset(one.digest for one in images if one.digest)
            yield KnownRelease(
                tuple(images),
                digests,
                _name(names_of(run), version_of(run)) or run.commit[:12],
                run.commit,
                "",
                run.id,
                run.started,
                deployed=False,
                failure="" if names_of(run) or run.state in _UNENDED else run.error,
            )


def _name(names: Sequence[str], version: str) -> str:
    """The tag that has the version, else any; the version where nothing was tagged."""
    tags = [Reference.parse(name).tag for name in names]
    return next((tag for tag in tags if version and version in tag), "") or next(
        iter(tags), version
    )


def find_release(every: Iterable[KnownRelease], word: str) -> KnownRelease | None:
    """The release with exactly these digests, else the newest with a version, or with the
    beginning of a digest or commit.
    """
    found, digest = None, word.rpartition("@")[2].removeprefix("sha256:")
    for one in every:
        if one.word == word:
            return one
        texts = (one.commit, *(image.hex for image in one.digests))
        begins = len(digest) >= _SHORT and any(text.startswith(digest) for text in texts)
        if found is None and (word == one.version or begins):
            found = one
    return found


@dataclass(frozen=True, slots=True)
class ReleaseStage:
    """An environment on the way of a release: kind and word of its chip, and what is said there."""

    name: str
    kind: str
    word: str
    lines: tuple[str, ...]
    since: float = 0.0
    soak: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """What is missing for the next environment; nothing if `blockers` is empty."""

    environment: str
    blockers: tuple[Blocker, ...]
    possible: float | None

    @property
    def waits(self) -> bool:
        return all(one.waits for one in self.blockers)


def stages(delivery: Delivery, states: States, release: KnownRelease) -> list[ReleaseStage]:
    """Where the release is and was, in the order of the environments."""
    return [_stage(delivery, states[name], release) for name in in_order(delivery.environments)]


def _stage(delivery: Delivery, state: EnvironmentState, release: KnownRelease) -> ReleaseStage:
    digests, current = release.digests, state.current
    if hold := state.held(digests):
        return ReleaseStage(state.name, "warn", "held", (hold.attribution,), hold.time)
    brought = next((one for one in state.deployments if one.digests == digests), None)
    if brought is None:
        has = (f"has {current.version}",) if current else ("has nothing",)
        return ReleaseStage(state.name, "none", "not there", has)
    by = f"{brought.action} by {brought.by.partition(' <')[0]}"
    if current and current.digests == digests:
        row = BoardRow(state, state.verified(digests) is not None and not state.edited, 0.0)
        kind = {"verified": "ok", "deployed": "ok", "not verified": "run"}
        word = {"verified": "here", "deployed": "here", "not verified": "starting"}
        lasted = state.verified_time(digests, delivery.clock()).seconds
        wanted = [
            section.soak.seconds
            for section in delivery.environments.values()
            if section.after == state.name and section.soak
        ]
        soak = (lasted, max(wanted)) if wanted and lasted < max(wanted) else None
        verification = row.verification
        return ReleaseStage(
            state.name,
            kind.get(verification, "bad"),
            "soaking" if soak else word.get(verification, verification),
            (by,),
            brought.time,
            soak,
        )
    later = f"replaced by {current.version}" if current else ""
    return ReleaseStage(
        state.name, "ok", "was here", tuple(filter(None, (by, later))), brought.time
    )


def next_stop(states: States, delivery: Delivery, release: KnownRelease) -> str:
    """The first environment that has other images and comes after one with these; empty if there is
    none.
    """
    for name in in_order(delivery.environments):
        after = delivery.environments[name].after
        if name not in release.places and after in release.places:
            return name
    return ""


def missing(delivery: Delivery, states: States, name: str, release: KnownRelease) -> Missing:
    """What the next environment asks for, trust and gates included: the registry is asked."""
    chosen = next(
        one
        for one in states[delivery.environments[name].after].deployments
        if one.digests == release.digests
    )
    found = blocked(delivery, states, name, chosen)
    now = datetime.fromtimestamp(delivery.clock(), UTC)
    possible = possible_at(delivery.environment(name), found, now)
    return Missing(name, found, possible.timestamp() if possible else None)


def happened(states: States, release: KnownRelease) -> list[Deployment]:
    """All commits about exactly these images, the newest first; of the same second, those of later
    environments.
    """
    found = (one for state in reversed([*states.values()]) for one in state.commits)
    return sorted(
        (one for one in found if one.digests == release.digests),
        key=lambda one: one.time,
        reverse=True,
    )


def commit_subject(delivery: Delivery, release: KnownRelease) -> str:
    """The subject of the source commit; empty if the clone does not have it."""
    try:
        return read_commit(delivery.git, release.commit).subject if release.commit else ""
    except GitError:
        return ""


VERBS = {
    Action.DEPLOY: "deployed to",
    Action.PROMOTE: "promoted to",
    Action.ROLLBACK: "rolled back to it in",
    Action.APPROVE: "approved for",
    Action.HOLD: "held in",
    Action.RELEASE: "released in",
    Action.VERIFY: "verified in",
    Action.WEIGHT: "given traffic in",
}
"""What a commit says of its images, before the name of the environment."""
