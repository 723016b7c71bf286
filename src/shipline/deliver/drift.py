"""Drift: an environment whose registry, regions or cluster do not have what its GitOps repository
says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from shipline.deliver.canary.state import position
from shipline.deliver.delivery import Delivery
from shipline.deliver.environments import EnvironmentSection
from shipline.deliver.gitops import RECORDS, UnsuitableFile, deployed, history
from shipline.deliver.promotion.promoting import changes_by_hand
from shipline.deliver.runtime import open_runtime
from shipline.errors import AuthError, NotFound, RegistryError, ShiplineError
from shipline.oci import Descriptor, Digest, Reference
from shipline.supply import Attachable
from shipline.tasks import TaskGroup
from shipline.trust import TrustPolicy
from shipline.values import replace

State = Literal["in_sync", "tag_moved", "missing_in_region", "unsigned", "image_drift", "unknown"]
REGISTRY, CLUSTER, GIT = "registry", "cluster", "git"
"""Places that are no regions: the image's own registry, what runs, the files of the repository."""

_AT_ONCE = 8
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class EnvironmentsDiffer(ShiplineError):
    """An environment is not as git has it."""

    code = "environments-differ"
    title: ClassVar[str] = "environments differ"
    exit_code: ClassVar[int] = 15


@dataclass(frozen=True, slots=True)
class DriftFinding:
    """What a place has of an image that git deploys to an environment. `detail` says what differs.
    `failure` is why the state is unknown; without one, the place cannot tell.
    """

    environment: str
    image: str
    place: str
    state: State
    detail: str = ""
    failure: ShiplineError | None = None

    @property
    def drifted(self) -> bool:
        """Whether the place is known to differ."""
        return self.state not in ("in_sync", "unknown")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An image in git, the digests that a canary lets run beside it, and what was changed by hand
    since the canary's last commit.
    """

    image: Reference
    beside: frozenset[Digest] = frozenset()
    changed: str = ""


def find_environment_drift(
    delivery: Delivery,
    environments: Mapping[str, EnvironmentSection],
    images: Mapping[str, Reference],
    regions: Mapping[str, Mapping[str, Reference]],
    policy: Callable[[], TrustPolicy] | None,
) -> list[DriftFinding]:
    """What each place has of the images, in the order of the environments. `images` are the
    repositories by target, in `regions` those of each region. Each place is judged by a `policy` of
    its own, since a policy remembers what it accepted.
    """
    with TaskGroup(_AT_ONCE) as group:
        tasks = []
        for name, section in environments.items():
            try:
                wanted = _in_git(delivery, name, section, images)
            except ShiplineError as error:
                wanted = dict.fromkeys(images, error)
            for target, one in wanted.items():
                if isinstance(one, ShiplineError):
                    checks = [partial(_failed, name, images[target], GIT, one)]
                else:
                    image = one.image
                    places = {REGISTRY: image}
                    for region, there in regions.items():
                        places[region] = replace(there[target], tag=image.tag, digest=image.digest)
                    checks = [
                        partial(_in_registry, delivery, name, image, place, stored, policy)
                        for place, stored in places.items()
                    ]
                    if one.changed:
                        differs = DriftFinding(name, str(image), GIT, "image_drift", one.changed)
                        checks.append(partial(replace, differs))
                    if section.health:
                        checks.append(partial(_in_cluster, delivery, name, section, one))
                tasks += [group.start(check) for check in checks]
    return [task.result() for task in tasks]


def _in_git(
    delivery: Delivery, name: str, section: EnvironmentSection, images: Mapping[str, Reference]
) -> dict[str, _Wanted | ShiplineError]:
    """The images that the files of the branch name, by target, or why they name none. Tags are
    those of the last deployment, if it was of the same digest.
    """
    with delivery.branch(section.gitops) as branch:
        tip = branch.fetch(RECORDS)
        commits = history(branch, tip, delivery.app, name)
        last, canary = deployed(commits, name), position(commits, name)
        tags = {(one.name, one.digest): one.tag for one in last.images} if last else {}
        changed = changes_by_hand(delivery, section, branch, tip, commits) if canary else ""
        beside = (*canary.last.images, *canary.last.previous) if canary else ()
        tree = {path: partial(branch.read, file) for path, file in branch.files(tip).items()}
        found: dict[str, set[str]] = {}
        for update in section.gitops.updates:
            if image := images.get(update.target):
                texts = "\n".join(update.present(tree, image))
                found.setdefault(update.target, set()).update(_DIGEST.findall(texts))
    wanted: dict[str, _Wanted | ShiplineError] = {}
    for target, digests in found.items():
        image = images[target]
        if len(digests) == 1:
            digest = Digest.parse(digests.pop())
            image = replace(image, tag=tags.get((image.name, digest), ""), digest=digest)
            others = frozenset(one.digest for one in beside if one.digest)
            wanted[target] = _Wanted(image, others, changed)
        else:
            problem = ", ".join(sorted(digests)) or "no digest"
            wanted[target] = UnsuitableFile(
                f"{name}: git names {problem} for {image.name}",
                hint=f"`shipline deploy --env {name}` sets one image by its digest",
            )
    return wanted


def _failed(name: str, image: Reference, place: str, error: ShiplineError) -> DriftFinding:
    return DriftFinding(name, str(image), place, "unknown", error.message, error)


def _in_registry(
    delivery: Delivery,
    name: str,
    image: Reference,
    place: str,
    stored: Reference,
    policy: Callable[[], TrustPolicy] | None,
) -> DriftFinding:
    """Whether the image is at `stored`, trusted as `image`, and under its tag."""
    finding = DriftFinding(name, str(image), place, "in_sync")
    source = delivery.repositories(stored)
    try:
        target = _resolved(source, str(image.digest))
        if target is None:
            return replace(finding, state="missing_in_region", detail=f"{stored} does not exist")
        if policy is not None and not (verdict := policy().verdict(source, image, target)).accepted:
            return replace(finding, state="unsigned", detail=f"{stored}: {verdict.reason}")
        tagged = _resolved(source, image.tag) if image.tag else target
    except (RegistryError, AuthError) as error:
        return _failed(name, image, place, error)
    if tagged is None or tagged.digest != target.digest:
        there = f"is {tagged.digest}" if tagged else "does not exist"
        return replace(finding, state="tag_moved", detail=f"{stored.tagged(image.tag)} {there}")
    return finding


def _resolved(source: Attachable, name: str) -> Descriptor | None:
    try:
        return source.resolve(name)
    except NotFound:
        return None


def _in_cluster(
    delivery: Delivery, name: str, section: EnvironmentSection, wanted: _Wanted
) -> DriftFinding:
    assert section.health is not None
    image = wanted.image
    finding = DriftFinding(name, str(image), CLUSTER, "in_sync")
    try:
        runtime = open_runtime(section.health, delivery.environ, delivery.root)
        state = runtime.read((image,))
    except ShiplineError as error:
        return _failed(name, image, CLUSTER, error)
    others = ", ".join(sorted(one for one in state.wanted if _is_other(one, wanted)))
    if state.images is None:
        return replace(finding, state="unknown", detail="the page does not say what runs")
    if not state.runs(image):
        detail = others and f"{others} runs"
        detail = detail or state.failure or state.message or "it does not run"
        return replace(finding, state="image_drift", detail=detail)
    if others:
        return replace(finding, state="image_drift", detail=f"{others} runs, too")
    return replace(finding, detail=state.failure or state.message)


def _is_other(name: str, wanted: _Wanted) -> bool:
    """Whether a container names another image of the same repository."""
    same = re.search(rf"(\A|/){re.escape(wanted.image.repository)}[:@]", name) is not None
    allowed = (wanted.image.digest, *wanted.beside)
    return same and not any(name.endswith(f"@{digest}") for digest in allowed)
