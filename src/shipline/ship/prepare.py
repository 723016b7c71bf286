"""From a project to a plan: what git, the tag policy and the registry say, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from shipline.build import check_request
from shipline.dockerfile import nearest
from shipline.errors import AuthError, ConfigError, RegistryError, UsageError
from shipline.git import Git, GitError, ShallowClone, fetch_tags, read_repository, tags
from shipline.oci import Digest, Reference
from shipline.ship.feeds import fed_gates
from shipline.ship.imaging import Facts, build_request
from shipline.ship.names import Order, dirty_decision, naming_of, order_of, placements
from shipline.ship.plan import Naming, Plan, Wanted, check_names, make_plan
from shipline.ship.project import Project, World
from shipline.ship.section import RESERVED, Build
from shipline.ship.source import Source, read_source
from shipline.tags import (
    Decision,
    Event,
    TagConflict,
    decide,
    foresee,
    ref_of,
    reusable,
    survey,
)

_NAMED = frozenset(RESERVED) - {"gates"}
_DOCKERFILE_HINT = (
    "`shipline init --dockerfile` writes one for Node.js, Python and Go; build.file names another"
)
_SHOWN = 5  # changed paths in a message


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with what it was made from; `decision` is None where no step gives or needs names."""

    project: Project
    source: Source
    plan: Plan
    wanted: Wanted
    decision: Decision | None = None


def prepare(
    project: Project,
    world: World,
    wanted: Wanted,
    *,
    allow_dirty: bool = False,
    asking: bool = False,
    fetch: bool = True,
    ignore: Iterable[Path] = (),
) -> Prepared:
    """The plan for HEAD. With `asking`, what would stop a run is told in the plan; else it is
    raised: UsageError for a dirty work tree, TagConflict.

    `fetch` lets a shallow clone be completed; `ignore` are paths that may differ from the commit.
    """
    check_names(project.pipeline.commands, wanted)
    project = replace(project, gates=fed_gates(project.gates, project.pipeline))
    reports = [path for step in project.pipeline.commands.values() for path in step.report_paths]
    ignored = (*reports, *_inside(ignore, project.root))
    source = read_source(project.root, world.environ, ignore=ignored)
    decision, naming = None, Naming()
    if _names(wanted):
        if project.pipeline.image is None:
            raise ConfigError(
                "shipline.yaml names no image", hint="add `image: REGISTRY/REPOSITORY`"
            )
        decision, naming = _decided(project, world, source, allow_dirty, asking, fetch)
        if not fetch and (doubt := _doubt(project, world)):
            naming = replace(naming, notes=(*naming.notes, doubt))
    if problem := _build_problem(project, world, wanted, naming):
        if not asking:
            raise problem
        naming = replace(naming, notes=(*naming.notes, problem.message))
    plan = make_plan(
        project.pipeline,
        source,
        naming,
        wanted,
        gates=project.gates,
        event=decision.event if decision else _located(world.event, source),
        environ=world.environ,
    )
    return Prepared(project, source, plan, wanted, decision)


_ARCHITECTURES = (
    *("386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle"),
    *("ppc64", "ppc64le", "riscv64", "s390x", "wasm"),
)
_SYSTEMS = ("darwin", "freebsd", "linux", "wasip1", "windows")
"""What Go builds for, and so what container tools know."""


def missing_parts(project: Project) -> Iterator[str]:
    """What the file names and is not there, or cannot be: known without a build, a registry or a
    commit. A step that runs before the build may still make what it needs.
    """
    pipeline, root = project.pipeline, project.root
    for platform in pipeline.build.platforms:
        for word, known in ((platform.os, _SYSTEMS), (platform.architecture, _ARCHITECTURES)):
            if word not in known:
                close = nearest(word, known)
                meant = f" (did you mean {close}?)" if close else ""
                yield f"build.platforms: {platform}: {word!r} is not known{meant}"
    if pipeline.image is not None and not pipeline.build.needs:
        yield from _missing_context(pipeline.build, root)
    key = pipeline.sign.key if pipeline.sign else ""
    if key and "://" not in key and not (root / key).is_file():
        yield f"sign.key: there is no file {key}; `shipline key generate` makes a key"
    for name, step in pipeline.commands.items():
        if not step.needs and not (root / step.working_directory).is_dir():
            yield f"steps.{name}.working-directory: there is no directory {step.working_directory}"
    for file in project.gates.waiver_files if project.gates else ():
        if not (root / file).is_file():
            yield f"gates.waiver-files: there is no file {file}"


def dockerfile_of(build: Build) -> Path:
    """The Dockerfile, relative to the project."""
    return Path(build.file) if build.file else Path(build.context, "Dockerfile")


def _missing_context(build: Build, root: Path) -> Iterator[str]:
    if "://" not in build.context:
        if not (root / build.context).is_dir():
            yield f"build.context: there is no directory {build.context}"
        elif not (root / dockerfile_of(build)).is_file():
            yield f"build.file: there is no Dockerfile at {dockerfile_of(build)}"
    for name, place in build.contexts.items():
        if "://" not in place and not (root / place).is_dir():
            yield f"build.contexts.{name}: there is no directory {place}"
    for secret in build.secrets:
        fields = dict(part.partition("=")[::2] for part in secret.split(","))
        source = fields.get("src") or fields.get("source") or ""
        if source and not (root / source).is_file():
            yield f"build.secrets: there is no file {source}"


def _build_problem(
    project: Project, world: World, wanted: Wanted, naming: Naming
) -> ConfigError | None:
    """What keeps the image from being built here, as far as it can be known before any work."""
    left_out = "build" in wanted.skip or (wanted.only and "build" not in wanted.only)
    if left_out or wanted.built or naming.reuse:
        return None
    build, none = project.pipeline.build, Facts({}, {})
    image = project.pipeline.image or Reference.parse("image")
    try:
        check_request(build_request(build, image, project.root, world.environ, none, push=False))
    except UsageError as error:
        return ConfigError(f"{project.file}: build: {error.message}", hint=error.hint)
    if build.needs or "://" in build.context:  # the Dockerfile may come from there
        return None
    place = dockerfile_of(build)
    if (project.root / place).exists():
        return None
    return ConfigError(f"there is no Dockerfile at {place}", hint=_DOCKERFILE_HINT)


def _located(event: Event, source: Source) -> Event:
    """The event with the branch that is out, where nobody told another."""
    return event if event.ref or not source.branch else replace(event, ref=ref_of(source.branch))


def _inside(paths: Iterable[Path], root: Path) -> Iterator[str]:
    """The paths that are in the project, relative to it."""
    for path in paths:
        absolute = path.absolute()
        if absolute.is_relative_to(root):
            yield str(absolute.relative_to(root))


def _names(wanted: Wanted) -> bool:
    """Whether anything is wanted that needs to know what the image is called."""
    return bool((wanted.only or _NAMED) & _NAMED - wanted.skip)


def _decided(
    project: Project, world: World, source: Source, allow_dirty: bool, asking: bool, fetch: bool
) -> tuple[Decision, Naming]:
    git = Git(project.root, world.environ)
    decision = _decide(project, world, git, fetch)
    if fetch and decision.git_tag is not None and decision.git_tag.new:
        # runs elsewhere may have made versions that this clone does not know
        known = tags(git)
        fetch_tags(git, _remote(project, git, decision.git_tag.name))
        if tags(git) != known:
            decision = _decide(project, world, git, fetch)
    if source.dirty:
        if not allow_dirty and not asking:
            raise _dirty(source)
        decision = dirty_decision(decision, source)
        if not allow_dirty:
            return decision, replace(naming_of(decision, None), refused=_dirty(source).message)
    order = order_of(git, project.tags.remote, fetch=fetch)
    try:
        reuse, notes = _reuse(project, world, decision, order), ()
    except TagConflict as conflict:
        if not asking:
            raise
        refused = "; ".join((conflict.message, *conflict.verdicts))
        return decision, replace(naming_of(decision, None), refused=refused)
    except (RegistryError, AuthError) as error:
        if not asking:
            raise
        return decision, naming_of(decision, None, (f"the registry did not tell: {error}",))
    except ShallowClone as error:
        if not asking:
            raise
        return decision, naming_of(decision, None, (f"{error}: {error.hint}",))
    return decision, naming_of(decision, reuse, notes)


def _decide(project: Project, world: World, git: Git, fetch: bool) -> Decision:
    now = int(world.clock())
    return decide(project.tags, survey(git, project.tags, world.event, fetch=fetch, now=now))


def _doubt(project: Project, world: World) -> str:
    """Why a run, which fetches tags, may make another version than this clone tells."""
    git, now = Git(project.root, world.environ), int(world.clock())
    try:
        return foresee(git, project.tags, world.event, now=now).doubt
    except GitError as error:
        return f"{error.message}: {error.hint}"


def _remote(project: Project, git: Git, version: str) -> str:
    """Where versions are reserved. Raises GitError before any work, where that is nowhere."""
    remote = read_repository(git, remote=project.tags.remote).remote
    if not remote:
        raise GitError(
            f"the version {version} cannot be reserved: the clone has no remote",
            hint="git remote add origin URL, or git-tag: false in the rule",
        )
    return remote


def _reuse(project: Project, world: World, decision: Decision, order: Order) -> Digest | None:
    """The image that this commit has already; looked for where the image is going to be."""
    image = project.pipeline.image
    if image is None or not decision.push:
        return None
    return reusable(placements(world.repositories(image), decision, order))


def _dirty(source: Source) -> UsageError:
    shown = ", ".join(source.changes[:_SHOWN]) + (", ..." if len(source.changes) > _SHOWN else "")
    return UsageError(
        f"the work tree has changes that are not in the commit {source.short}: {shown}",
        hint="commit or stash them; --allow-dirty ships them without a version",
    )
