"""`shipline mirror sync`: tags copied between any registries, as a plan says.

What differs is found first, and shown or copied. A lock file keeps what was seen: the digest of
each tag at its source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from msgspec import Struct

from shipline.errors import ConfigError, ShiplineError
from shipline.files import write_whole, writing
from shipline.globs import Glob
from shipline.images import CopyOptions, Meter, NarrowedSource, copy_tag, digest_of, missing
from shipline.oci import Descriptor, Digest, Platform, Reference
from shipline.registry import Client, RemoteRepository
from shipline.server.entries import subject_of_tag
from shipline.supply import copy_evidence
from shipline.tasks import TaskGroup
from shipline.units import ByteSize
from shipline.values import doc

_EVERY = (Glob("**"),)
_AT_ONCE = 8
Lock = Mapping[str, Mapping[str, str]]
"""Digests by repository and tag."""


class MirrorDiffers(ShiplineError):
    """A mirror does not have what its source has, or the source not what was seen there."""

    code = "mirror-differs"
    title = "mirror differs"
    exit_code = 15


@dataclass(frozen=True, slots=True)
class MirrorSection:
    """Tags to copy from one registry to another."""

    from_: str = field(
        metadata=doc("a repository, or with `repositories` a registry: HOST[/PREFIX]")
    )
    to: str = field(metadata=doc("where it is copied to, in the same form"))
    repositories: tuple[Glob, ...] = field(
        default=(), metadata=doc("the repositories below `from`, as the registry lists them")
    )
    tags: tuple[Glob, ...] = field(default=_EVERY, metadata=doc("only these tags"))
    platforms: tuple[str, ...] = field(
        default=(), metadata=doc("only these platforms; the index is then another")
    )
    referrers: bool = field(
        default=True, metadata=doc("also signatures, attestations and other referrers")
    )

    def __post_init__(self) -> None:
        suffix = "/x" if self.repositories else ""
        for key, text in (("from", self.from_), ("to", self.to)):
            try:
                place = Reference.parse(f"{text.rstrip('/')}{suffix}")
            except ShiplineError as error:
                raise ConfigError(f"{key}: {error.message}", hint=error.hint) from None
            if place.tag or place.digest:
                hint = "name the tags to copy with `tags`"
                raise ConfigError(f"{key}: {text} has a tag or digest", hint=hint)
        try:
            tuple(map(Platform.parse, self.platforms))
        except ShiplineError as error:
            raise ConfigError(f"platforms: {error.message}", hint=error.hint) from None


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """What `shipline mirror sync` copies."""

    mirrors: tuple[MirrorSection, ...] = field(metadata=doc("what is copied where"))
    version: Literal[1] = field(default=1, metadata=doc("the version of this format"))
    bandwidth: ByteSize | None = field(
        default=None, metadata=doc("bytes per second at most, of all transfers together")
    )


@dataclass(frozen=True, slots=True)
class MirrorTag:
    """A tag that is mirrored. `root` is what its source has (or the lock file, if that is kept to),
    `before` what its target has. `bytes` and `objects` are to be copied, if it was measured.
    """

    source: RemoteRepository
    target: RemoteRepository
    tag: str
    root: Descriptor
    before: Digest | None
    options: CopyOptions
    bytes: int = 0
    objects: int = 0
    differs: bool = True

    def __str__(self) -> str:
        return f"{self.source.name}:{self.tag} -> {self.target.name}:{self.tag}"


class MirrorFailure(Struct, frozen=True):
    """What could not be compared or copied, and why."""

    what: str
    error: ShiplineError


@dataclass(frozen=True, slots=True)
class Comparison:
    """The tags that a plan names; `seen` is what their sources have, `moved` are the names of tags
    of a lock file that point elsewhere there now, `unmatched` the sources without such tags.
    """

    tags: tuple[MirrorTag, ...]
    seen: Lock
    moved: tuple[str, ...]
    failures: tuple[MirrorFailure, ...]
    unmatched: tuple[str, ...] = ()

    @property
    def differing(self) -> tuple[MirrorTag, ...]:
        return tuple(tag for tag in self.tags if tag.differs)


def compare(
    client: Client, plan: MirrorPlan, lock: Lock, *, keep: bool = False, measure: bool = False
) -> Comparison:
    """Look at sources and targets. With `keep` the digests of `lock` are mirrored, not what the
    tags point to now; with `measure` what is missing is counted.
    """
    found: list[MirrorTag] = []
    failures: list[MirrorFailure] = []
    seen: dict[str, dict[str, str]] = {}
    matched: set[str] = set()

    def look(section: MirrorSection, source: RemoteRepository, target: RemoteRepository) -> None:
        for tag in source.tags():
            wanted = any(glob.matches(tag) for glob in section.tags)
            if wanted and subject_of_tag(tag) is None:
                matched.add(section.from_)
                group.start(look_at, section, source, target, tag)

    def look_at(
        section: MirrorSection, source: RemoteRepository, target: RemoteRepository, tag: str
    ) -> None:
        with _collecting(failures, f"{source.name}:{tag}"):
            root = source.resolve(tag)
            seen.setdefault(source.name, {})[tag] = str(root.digest)
            locked = lock.get(source.name, {}).get(tag)
            if keep and locked is None:
                return
            if keep and locked != str(root.digest):
                root = source.resolve(str(locked))
            found.append(_compared(section, source, target, tag, root, measure=measure))

    with TaskGroup(_AT_ONCE) as group:
        for section in plan.mirrors:
            with _collecting(failures, section.from_):
                for source, target in _pairs(client, section):
                    with _collecting(failures, source.name):
                        look(section, source, target)
    moved = [
        f"{name}:{tag}"
        for name, tags in lock.items()
        for tag, digest in tags.items()
        if name in seen and seen[name].get(tag) != digest
    ]
    found.sort(key=str)
    sources = dict.fromkeys(section.from_ for section in plan.mirrors)
    unmatched = tuple(source for source in sources if source not in matched)
    return Comparison(tuple(found), seen, tuple(sorted(moved)), tuple(failures), unmatched)


def synchronise(comparison: Comparison, plan: MirrorPlan) -> tuple[MirrorFailure, ...]:
    """Copy what differs, and statements that are new; returns the tags that failed, which hold up
    no other.
    """
    failures: list[MirrorFailure] = []
    meter = Meter(plan.bandwidth.bytes if plan.bandwidth else None)

    def copy(one: MirrorTag) -> None:
        with _collecting(failures, str(one)):
            if one.differs:
                copy_tag(
                    one.source, one.target, one.root, one.tag, options=one.options, meter=meter
                )
            elif one.options.referrers:
                source = NarrowedSource(one.source, meter, one.options.platforms)
                copy_evidence(source, one.target, source.narrowed(one.root))

    with TaskGroup(_AT_ONCE // 2) as group:
        for one in comparison.tags:
            group.start(copy, one)
    return tuple(failures)


def read_lock(path: Path, *, required: bool) -> Lock:
    """The lock file; empty if there is none yet, unless it is required. Raises ConfigError."""
    try:
        document = json.loads(path.read_bytes())
        return {
            str(name): {str(tag): str(Digest.parse(digest)) for tag, digest in tags.items()}
            for name, tags in document["tags"].items()
        }
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not required:
            return {}
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", code="file-unreadable"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, ShiplineError):
        raise ConfigError(
            f"{path} is not a lock file of `shipline mirror sync`",
            code="mirror-lock",
            hint="remove it",
        ) from None


def write_lock(path: Path, seen: Lock) -> None:
    """Write what was seen, sorted, so that it can be compared and committed. Raises ConfigError."""
    tags = {name: dict(sorted(seen[name].items())) for name in sorted(seen)}
    with writing(path, ConfigError):
        write_whole(path, json.dumps({"version": 1, "tags": tags}, indent=2).encode() + b"\n")


@contextmanager
def _collecting(failures: list[MirrorFailure], what: str) -> Iterator[None]:
    try:
        yield
    except ShiplineError as error:
        failures.append(MirrorFailure(what, error))


def _pairs(
    client: Client, section: MirrorSection
) -> Iterator[tuple[RemoteRepository, RemoteRepository]]:
    """The repositories of the source that are mirrored, each with its target."""
    if not section.repositories:
        source, target = map(Reference.parse, (section.from_, section.to))
        yield client.repository(source).unmirrored, client.repository(target)
        return
    source, target = (
        Reference.parse(f"{one.rstrip('/')}/x") for one in (section.from_, section.to)
    )
    below, place = (one.repository.removesuffix("x") for one in (source, target))
    for name in client.repositories(source.host):
        rest = name.removeprefix(below)
        if name.startswith(below) and any(glob.matches(rest) for glob in section.repositories):
            yield (
                client.repository(Reference(source.host, name)).unmirrored,
                client.repository(Reference(target.host, place + rest)),
            )


def _compared(
    section: MirrorSection,
    source: RemoteRepository,
    target: RemoteRepository,
    tag: str,
    root: Descriptor,
    *,
    measure: bool,
) -> MirrorTag:
    options = CopyOptions(tuple(map(Platform.parse, section.platforms)), section.referrers)
    narrowed = NarrowedSource(source, Meter(), options.platforms)
    new, before = narrowed.narrowed(root), digest_of(target, tag)
    differs = new.digest != before
    lacking = missing(narrowed, target, new) if measure and differs else ()
    return MirrorTag(
        source,
        target,
        tag,
        root,
        before,
        options,
        sum(one.size for one in lacking),
        len(lacking),
        differs,
    )
