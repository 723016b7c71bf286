"""What was measured for the image before this one: the signed verdicts attached to it.

That image is the one that has a tag that is going to move, or that of the last version. Only
statements of our own keys count, so without a key there is no baseline.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from shipline.errors import NotFound
from shipline.gates import SUMMARY_TYPE, Baseline
from shipline.git import Git, read_repository, tags
from shipline.oci import Descriptor
from shipline.ship.names import Remote
from shipline.supply import PublicKey, examine_attestations
from shipline.tags import Decision, RepositoryClone, TagsSection, last_version


def find_baseline(
    repository: Remote,
    target: Descriptor,
    decision: Decision,
    section: TagsSection,
    git: Git,
    keys: Sequence[PublicKey],
) -> Baseline | None:
    """The verdicts on the image before `target`; None where no image or no statement is there."""
    for name in _names(decision, section, git) if keys else ():
        try:
            before = repository.resolve(name)
        except NotFound:
            continue
        if before.digest == target.digest:
            continue
        proven = examine_attestations(repository, before, keys, SUMMARY_TYPE).proven
        if proven:
            newest = max((one.statement.predicate for one in proven), key=_judged_at)
            return Baseline.parse(json.dumps(newest).encode())
    return None


def _names(decision: Decision, section: TagsSection, git: Git) -> Iterator[str]:
    """The tags under which the image before this one may be."""
    yield from (tag.name for tag in decision.tags if tag.mutable)
    clone = RepositoryClone(git, read_repository(git, remote=section.remote), tags(git))
    parents = git.text("log", "-1", "--format=%P", decision.commit).split()
    if parents and (last := last_version(clone, section, parents[0])):
        yield last.replace("/", "-")
        yield last.removeprefix(section.tag_prefix)


def _judged_at(predicate: object) -> str:
    return str(predicate.get("judgedAt", "")) if isinstance(predicate, dict) else ""
