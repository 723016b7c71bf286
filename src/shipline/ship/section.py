"""The keys of shipline.yaml for the pipeline: images, steps, build, sign, copies, regions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, Self

from shipline.deliver.commands import check_inside, check_variables
from shipline.errors import ConfigError, ShiplineError, UsageError
from shipline.oci import Platform, Reference
from shipline.units import Duration
from shipline.values import doc, replace

RESERVED = ("build", "gates", "reserve", "sign", "copy", "publish")
"""The steps that every pipeline has, in order."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_REGION = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z")
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")
Occasion = Literal["push", "tag", "pull-request", "schedule"]


@dataclass(frozen=True, slots=True)
class When:
    """When a step runs: all conditions must hold; of the patterns in a list, one must match."""

    branch: str | tuple[str, ...] = field(
        default=(), metadata=doc("Branches, as shell patterns: main, feature/*.")
    )
    tag: str | tuple[str, ...] = field(
        default=(), metadata=doc("Git tags that were pushed, as shell patterns: v*.")
    )
    event: Occasion | tuple[Occasion, ...] = field(
        default=(), metadata=doc("What started the run; without CI, push.")
    )
    env: Mapping[str, str] = field(
        default_factory=dict, metadata=doc("Variables, each with the shell pattern it must match.")
    )


@dataclass(frozen=True, slots=True)
class StepSection:
    """A command of the project: lint, tests, static analysis, or a scan of the image."""

    run: str | tuple[str, ...] = field(
        default="", metadata=doc("A script for `sh -e`, or a program with its arguments.")
    )
    scanner: Literal["syft", "trivy", "grype"] | None = field(
        default=None,
        metadata=doc("Instead of run: scan the pushed digest of each platform with this."),
    )
    needs: tuple[str, ...] = field(
        default=(),
        metadata=doc("Steps that must have passed. A step that needs `build` gets the digest."),
    )
    reports: tuple[str, ...] | Mapping[str, str | tuple[str, ...]] = field(
        default=(),
        metadata=doc("Files that the step writes; as a mapping, by the gate that reads them."),
    )
    when: When = field(
        default_factory=When, metadata=doc("When the step runs; otherwise it is skipped.")
    )
    timeout: Duration = field(
        default=Duration.parse("30m"), metadata=doc("Time limit, as 90s or 1h30m.")
    )
    retries: int = field(default=0, metadata=doc("Further attempts after a failure."))
    env: Mapping[str, str] = field(
        default_factory=dict, metadata=doc("Variables to set, in addition to the usual ones.")
    )
    pass_env: tuple[str, ...] = field(
        default=(), metadata=doc("Variables to pass on, by name or as NAME_*; others are not.")
    )
    working_directory: str = field(
        default=".", metadata=doc("Working directory, relative to this file.")
    )
    allow_failure: bool = field(
        default=False, metadata=doc("Continue after a failure, which is recorded.")
    )

    def __post_init__(self) -> None:
        if bool(self.run) == bool(self.scanner):
            raise ConfigError("needs one of run and scanner")
        if not 0 <= self.retries <= 10:
            raise ConfigError("retries: must be from 0 to 10")
        check_variables("env", self.env)
        check_variables("pass-env", self.pass_env)
        check_inside("working-directory", (self.working_directory,))
        check_inside("reports", self.report_paths)

    @property
    def report_paths(self) -> tuple[str, ...]:
        """The paths of all reports."""
        if not isinstance(self.reports, Mapping):
            return self.reports
        return tuple(path for paths in self.reports.values() for path in as_tuple(paths))

    @property
    def after_build(self) -> bool:
        return self.scanner is not None or "build" in self.needs


@dataclass(frozen=True, slots=True)
class Build:
    """How the image is built; keys are named as the flags of `shipline build`."""

    context: str = field(default=".", metadata=doc("The directory to build from."))
    file: str | None = field(default=None, metadata=doc("The Dockerfile."))
    platforms: tuple[Platform, ...] = field(
        default=(), metadata=doc("Platforms to build for; by default that of this machine.")
    )
    target: str | None = field(default=None, metadata=doc("The stage to build."))
    args: Mapping[str, str] = field(
        default_factory=dict, metadata=doc("Build arguments.", interpolate=True)
    )
    labels: Mapping[str, str] = field(
        default_factory=dict,
        metadata=doc("Labels, besides those of the tag policy.", interpolate=True),
    )
    contexts: Mapping[str, str] = field(
        default_factory=dict, metadata=doc("Additional contexts, by name.")
    )
    secrets: tuple[str, ...] = field(
        default=(), metadata=doc("Secrets for steps, as id=NAME,env=VARIABLE or id=NAME,src=F.")
    )
    ssh: tuple[str, ...] = field(default=(), metadata=doc("Agents or keys, as ID[=PATH]."))
    cache_from: tuple[str, ...] = field(
        default=(), metadata=doc("Caches to read from.", interpolate=True)
    )
    cache_to: tuple[str, ...] = field(
        default=(), metadata=doc("Caches to write to.", interpolate=True)
    )
    compression: Literal["gzip", "estargz", "zstd"] | None = field(
        default=None, metadata=doc("How layers are compressed.")
    )
    provenance: Literal["min", "max"] | None = field(
        default=None,
        metadata=doc("Add to the image how it was built: min, or max, with all steps."),
    )
    sbom: bool = field(
        default=False,
        metadata=doc("Add a list of its packages to the image; the sbom gate judges it."),
    )
    pull: bool = field(default=False, metadata=doc("Check for newer versions of base images."))
    no_cache: bool = field(default=False, metadata=doc("Do not use results of earlier builds."))
    needs: tuple[str, ...] = field(
        default=(),
        metadata=doc(
            "Steps that must have passed before the build starts; others run concurrently."
        ),
    )


@dataclass(frozen=True, slots=True)
class TargetSection(Build):
    """An image of several that are shipped together, or a target that only others use."""

    image: Reference | None = field(
        default=None,
        metadata=doc(
            "The repository to push to, without a tag; a target without one is only a"
            " context of others, as `target:NAME`.",
            interpolate=True,
        ),
    )
    copies: tuple[Reference, ...] = field(
        default=(),
        metadata=doc(
            "Repositories that get the image with its signatures and tags.", interpolate=True
        ),
    )

    @property
    def places(self) -> tuple[Reference, ...]:
        """The repositories that get the image."""
        return (self.image, *self.copies) if self.image else ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that it has as contexts."""
        prefix = "target:"
        contexts = self.contexts.values()
        return tuple(one.removeprefix(prefix) for one in contexts if one.startswith(prefix))

    def over(self, shared: Build) -> Self:
        """With the values of `shared` for keys that are not set; mappings have both."""
        changed: dict[str, Any] = {}
        for key in fields(shared):
            own, theirs = getattr(self, key.name), getattr(shared, key.name)
            if isinstance(own, Mapping):
                changed[key.name] = {**theirs, **own}
            elif own == key.default:
                changed[key.name] = theirs
        return replace(self, **changed)


@dataclass(frozen=True, slots=True)
class Sign:
    """How an image that passed the gates is signed, and which statements are attached."""

    key: str = field(
        metadata=doc("A private key file of `shipline key generate` or cosign, or env://VARIABLE.")
    )
    annotations: Mapping[str, str] = field(
        default_factory=dict,
        metadata=doc("Annotations to include in the signatures.", interpolate=True),
    )
    attest: bool = field(
        default=True, metadata=doc("Also attach the verdicts of the gates and the provenance.")
    )


@dataclass(frozen=True, slots=True)
class RegionsSection:
    """The registries that serve the image elsewhere, and which of them the tags wait for."""

    registries: Mapping[str, str] = field(
        default_factory=dict,
        metadata=doc(
            "Registries by the name of their region, as HOST or HOST/PREFIX: the path of the"
            " image follows it.",
            interpolate=True,
        ),
    )
    wait: Literal["all", "quorum", "none"] = field(
        default="all",
        metadata=doc(
            "The regions that must have the image before it is tagged anywhere: all, more"
            " than half, or none. The others get it by the end of the run, or with --resume."
        ),
    )

    def __post_init__(self) -> None:
        for name, registry in self.registries.items():
            if not _REGION.match(name):
                raise ConfigError(
                    f"registries: {name!r} is not a name of lower-case letters, digits and -"
                )
            if "://" in registry:
                raise ConfigError(
                    f"registries.{name}: {registry!r} is a URL, not HOST or HOST/PREFIX",
                    hint=f"write {registry.partition('://')[2].rstrip('/')}",
                )
            try:
                place = Reference.parse(f"{registry}/image")
            except ShiplineError as error:
                raise ConfigError(f"registries.{name}: {error.message}") from None
            if place.name != f"{registry}/image":
                raise ConfigError(f"registries.{name}: {registry!r} is not HOST or HOST/PREFIX")

    def needed(self, count: int) -> int:
        """How many of `count` regions the tags wait for."""
        return {"all": count, "quorum": count // 2 + 1 if count else 0, "none": 0}[self.wait]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The pipeline of one image, or of several targets."""

    image: Reference | None = field(
        default=None, metadata=doc("The repository to push to, without a tag.", interpolate=True)
    )
    steps: Mapping[str, str | StepSection] = field(
        default_factory=dict,
        metadata=doc("Commands by name: a script, or a mapping. They run concurrently."),
    )
    build: Build = field(
        default_factory=Build,
        metadata=doc("How the image is built; with `targets`, what they have in common."),
    )
    targets: Mapping[str, TargetSection] = field(
        default_factory=dict,
        metadata=doc("Instead of image and copies: several images by name, shipped together."),
    )
    sign: Sign | None = field(
        default=None, metadata=doc("How the image is signed; by default it is not.")
    )
    copies: tuple[Reference, ...] = field(
        default=(),
        metadata=doc(
            "Repositories that get the image with its signatures and tags.", interpolate=True
        ),
    )
    regions: RegionsSection = field(
        default_factory=RegionsSection, metadata=doc("Registries that serve the image elsewhere.")
    )
    builder: str | None = field(
        default=None, metadata=doc("The builder that builds, as `shipline builder ls` names it.")
    )
    keep_runs: int = field(default=50, metadata=doc("Number of records of runs to keep."))

    def __post_init__(self) -> None:
        regions = self.regions.registries
        for name in self.steps:
            if not _NAME.match(name):
                raise ConfigError(f"steps: {name!r} is not a name of letters, digits, . _ and -")
            if name in (*RESERVED, *map(copy_step, regions), *map(publish_step, regions)):
                raise ConfigError(f"steps: {name} is a step that every pipeline has: rename yours")
        if self.targets and (self.image or self.copies):
            key = "image" if self.image else "copies"
            raise ConfigError(f"targets: each has an image of its own: move {key} into one of them")
        _check_targets(self.targets)
        _check_places(self.builds, self.in_regions)
        if self.keep_runs < 1:
            raise ConfigError("keep-runs: must be at least 1")
        _check_needs(self.commands, self.build_needs)

    @property
    def builds(self) -> Mapping[str, TargetSection]:
        """What is built, by target; without targets it has the empty name."""
        if self.targets:
            return {name: target.over(self.build) for name, target in self.targets.items()}
        shared = {key.name: getattr(self.build, key.name) for key in fields(self.build)}
        return {"": TargetSection(**shared, image=self.image, copies=self.copies)}

    @property
    def images(self) -> Mapping[str, Reference]:
        """The repositories that images are pushed to, by target."""
        return {name: one.image for name, one in self.builds.items() if one.image is not None}

    @property
    def in_regions(self) -> Mapping[str, Mapping[str, Reference]]:
        """The repositories of the images by region and target."""
        return {
            region: {
                name: Reference.parse(f"{registry}/{image.repository}")
                for name, image in self.images.items()
            }
            for region, registry in self.regions.registries.items()
        }

    def only_for(self, platforms: tuple[Platform, ...]) -> Self:
        """Building for `platforms` alone: a target for others is not an image then, and is left out
        unless it is a context. Raises UsageError if none is left.
        """
        build = replace(self.build, platforms=platforms)
        if not self.targets:
            return replace(self, build=build)
        targets = {}
        for name, target in self.builds.items():
            wanted = tuple(one for one in platforms if one in (target.platforms or platforms))
            left = target if wanted else replace(target, image=None, copies=())
            targets[name] = replace(left, platforms=wanted or platforms)
        if all(target.image is None for target in targets.values()):
            raise UsageError(
                f"--platform: no target is for {', '.join(map(str, platforms))}",
                code="platform-missing",
            )
        while unused := [*_unused(targets)]:
            targets = {name: one for name, one in targets.items() if name not in unused}
        return replace(self, build=Build(), targets=targets)

    @property
    def build_needs(self) -> tuple[str, ...]:
        """The steps that must have passed before the build."""
        return tuple(dict.fromkeys(name for one in self.builds.values() for name in one.needs))

    @property
    def report_paths(self) -> tuple[str, ...]:
        """What its commands write, which is no change of the work tree."""
        return tuple(path for step in self.commands.values() for path in step.report_paths)

    @property
    def commands(self) -> Mapping[str, StepSection]:
        """The steps, each as a section."""
        return {
            name: StepSection(run=step) if isinstance(step, str) else step
            for name, step in self.steps.items()
        }


def as_tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """The value as a tuple."""
    return (value,) if isinstance(value, str) else value


def _check_targets(targets: Mapping[str, TargetSection]) -> None:
    """Raises ConfigError for bad names, contexts that are no targets, and cycles of them."""
    for name, target in targets.items():
        if not _TARGET.match(name):
            raise ConfigError(f"targets: {name!r} is not a name of letters, digits, _ and -")
        if twin := next(
            (one for one in targets if _share_variables(one, name) and one != name), ""
        ):
            raise ConfigError(f"targets: {name} and {twin} have the same names of variables")
        for used in target.targets:
            if used not in targets:
                known = ", ".join(targets)
                raise ConfigError(f"targets.{name}.contexts: there is no target {used!r}: {known}")
    edges = {name: target.targets for name, target in targets.items()}
    if cycle := _find_cycle(edges):
        raise ConfigError(f"targets: they are contexts of each other: {' -> '.join(cycle)}")
    if targets and all(target.image is None for target in targets.values()):
        raise ConfigError("targets: none of them has an image")
    for name in _unused(targets):
        raise ConfigError(
            f"targets.{name}: it has no image, and no target has it as a context",
            hint=f"add image, or target:{name} to the contexts of a target; or remove it",
        )


def _unused(targets: Mapping[str, TargetSection]) -> Iterator[str]:
    """The targets without an image that are contexts of no other."""
    used = {name for target in targets.values() for name in target.targets}
    return (name for name, one in targets.items() if one.image is None and name not in used)


def _share_variables(one: str, other: str) -> bool:
    """Whether the variables of both targets have the same names."""
    return one.upper().replace("-", "_") == other.upper().replace("-", "_")


def copy_step(region: str) -> str:
    """The name of the step that copies the images to a region."""
    return f"copy-{region}"


def publish_step(region: str) -> str:
    """The name of the step that sets the tags in a region."""
    return f"publish-{region}"


def deploy_step(environment: str) -> str:
    """The name of the step that deploys the images to an environment."""
    return f"deploy-{environment}"


def _check_places(
    builds: Mapping[str, TargetSection], regions: Mapping[str, Mapping[str, Reference]]
) -> None:
    """Raises ConfigError for repositories with a tag, and for those that two images have."""
    seen: dict[str, str] = {}
    for name, build in builds.items():
        prefix = f"targets.{name}." if name else ""
        for index, place in enumerate(build.places):
            key = f"{prefix}copies" if index else f"{prefix}image"
            if place.tag or place.digest:
                raise ConfigError(f"{key}: {place} has a tag or digest: name the repository alone")
            if place.name in seen:
                what = "the image itself" if seen[place.name] == f"{prefix}image" else "there twice"
                other = "" if seen[place.name].startswith(prefix) else f", in {seen[place.name]}"
                raise ConfigError(f"{key}: {place} is {what}{other}")
            seen[place.name] = key
    for region, places in regions.items():
        for place in places.values():
            if place.name in seen:
                what = f"{place} is that of {seen[place.name]}"
                raise ConfigError(f"regions.registries.{region}: {what}")
            seen[place.name] = f"regions.registries.{region}"


def _check_needs(steps: Mapping[str, StepSection], before_build: tuple[str, ...]) -> None:
    """Raises ConfigError for an unknown step, and for a cycle."""
    edges: dict[str, tuple[str, ...]] = {"build": before_build}
    for name, step in steps.items():
        edges[name] = (*step.needs, *(("build",) if step.scanner else ()))
    for name, needs in edges.items():
        for needed in needs:
            if needed not in edges:
                known = ", ".join(edges)
                place = name if name == "build" else f"steps.{name}"
                raise ConfigError(
                    f"{place}: needs {needed!r}, which is not a step; there is {known}"
                )
    if cycle := _find_cycle(edges):
        raise ConfigError(f"steps: they wait for each other: {' -> '.join(cycle)}")


def _find_cycle(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """The names in a cycle, the first one again at the end; empty without a cycle."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        found: list[str] = error.args[1][:0:-1]  # each needs the next
        first = found.index(next(name for name in edges if name in found))
        return [*found[first:], *found[: first + 1]]
    return []
