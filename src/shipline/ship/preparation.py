"""Makes the plan of a run: asks git, the tag policy and the registry before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from shipline.errors import AuthError, ConfigError, RegistryError, UsageError
from shipline.git import (
    Git,
    GitError,
    ShallowClone,
    WorkTree,
    commit_order,
    fetch_tags,
    read_repository,
    read_work_tree,
    remote_default_branch,
    tags,
)
from shipline.oci import Digest
from shipline.ship.plan import (
    Environment,
    Naming,
    Plan,
    PlanInput,
    ProjectConfig,
    Selection,
    make_plan,
)
from shipline.ship.reports import with_implied_gates
from shipline.ship.steps import KINDS, declared_steps
from shipline.ship.steps.build import build_problem
from shipline.ship.steps.publish import placements
from shipline.tags import (
    COMMAND_LINE,
    PULL_MERGE,
    REVISION,
    Decision,
    Event,
    Tag,
    TagConflict,
    decide,
    expected_decision,
    no_remote,
    ref_of,
    reusable,
    survey,
)
from shipline.values import replace

_SHOWN = 5  # changed paths in a message
_SHORT = 12  # digits of a commit or tree in a tag
_UNASKED = "it is unknown whether this commit already has an image"


def prepare(
    project: ProjectConfig,
    environment: Environment,
    selection: Selection,
    *,
    allow_dirty: bool = False,
    plan_only: bool = False,
    fetch: bool = True,
    ignore: Iterable[Path] = (),
) -> Plan:
    """The plan for HEAD. What would stop a run is noted in the plan with `plan_only`, else raised:
    UsageError for a dirty work tree, TagConflict. `fetch`: whether a shallow clone may be
    completed; `ignore` are paths that may differ from the commit.
    """
    pipeline = project.pipeline
    project = replace(project, gates=with_implied_gates(project.gates, pipeline))
    names = {name: kind for kind in KINDS for name in kind.names_in(project)}
    selection.check(names.keys(), project.environments)
    ignored = (*pipeline.report_paths, *_inside(ignore, project.root))
    work_tree = read_work_tree(Git(project.root, environment.environ), ignore=ignored)
    naming, event = Naming(), _located(environment.event, work_tree)
    _require_contained(project, environment, work_tree, fetch)
    if any(kind.uses_decision and not selection.left_out(name) for name, kind in names.items()):
        if not pipeline.images:
            raise ConfigError(
                "shipline.yaml names no image",
                code="config-no-image",
                hint="add `image: REGISTRY/REPOSITORY`",
            )
        policy = _Policy(project, environment, fetch)
        decision = policy.decide(work_tree)
        naming = policy.naming(decision, work_tree, allow_dirty=allow_dirty, plan_only=plan_only)
        event = decision.event
        if project.environments and not event.default_branch:
            event = replace(event, default_branch=policy.default_branch())
        if not fetch and (doubt := policy.doubt()):
            naming = replace(naming, notes=(*naming.notes, doubt))
    reused = naming.reuse.keys() == pipeline.images.keys()
    builds = not (selection.left_out("build") or selection.built or reused)
    if builds and (problem := build_problem(project, environment.environ)):
        if not plan_only:
            raise problem
        naming = replace(naming, problems=(*naming.problems, problem.message))
    inputs = PlanInput(project, work_tree, selection, event, environment.environ, naming)
    return make_plan(inputs, declared_steps(inputs))


def missing_parts(project: ProjectConfig) -> Iterator[str]:
    """What the file names that does not exist or is invalid, as far as that is known without a
    build, a registry or a commit. A step that runs before the build may still create what it needs.
    """
    for kind in KINDS:
        yield from kind.missing(project)


def _inside(paths: Iterable[Path], root: Path) -> Iterator[str]:
    """Those paths that are in the project, relative to it."""
    for path in paths:
        absolute = Path(os.path.abspath(path))  # without ..: links stay as they are named
        if absolute.is_relative_to(root):
            yield str(absolute.relative_to(root))


def _located(event: Event, work_tree: WorkTree) -> Event:
    """The event, with the checked-out branch if it has no ref."""
    if event.ref or not work_tree.branch:
        return event
    return replace(event, ref=ref_of(work_tree.branch))


def _require_contained(
    project: ProjectConfig, environment: Environment, work_tree: WorkTree, fetch: bool
) -> None:
    """Raises UsageError for a branch that a person named and that lacks the commit, as far as the
    clone knows the branch.
    """
    event, commit = environment.event, work_tree.commit
    if event.source != COMMAND_LINE or not event.branch or event.branch == work_tree.branch:
        return
    git = Git(project.root, environment.environ)
    refs = (event.ref, f"refs/remotes/*/{event.branch}")
    known = [ref for ref in git.lines("for-each-ref", "--format=%(refname)", *refs) if ref]
    older = commit_order(git, project.tags.remote, fetch=fetch)
    with suppress(ShallowClone):  # which cannot tell
        if known and not any(older(commit, ref) for ref in known):
            raise UsageError(
                f"the branch {event.branch} does not have the commit {work_tree.short}",
                code="ref-without-commit",
                hint=f"git fetch, or git checkout {event.branch}; --ref says where the commit is",
            )


class DirtyWorkTree(UsageError):
    """The work tree differs from the commit."""

    code = "work-tree-dirty"

    def __init__(self, work_tree: WorkTree) -> None:
        more = ", ..." if len(work_tree.changes) > _SHOWN else ""
        shown = ", ".join(work_tree.changes[:_SHOWN]) + more
        super().__init__(
            f"the work tree has changes that are not in the commit {work_tree.short}: {shown}",
            hint="commit them, list new files in .gitignore, or git stash --include-untracked;"
            " --allow-dirty ships them without a version",
        )


class _Policy:
    """The decision of the project's tag policy for HEAD."""

    def __init__(self, project: ProjectConfig, environment: Environment, fetch: bool) -> None:
        self.project = project
        self.environment = environment
        self.fetch = fetch
        self.git = Git(project.root, environment.environ)
        self.now = int(environment.clock())

    def decide(self, work_tree: WorkTree) -> Decision:
        decision = self._decided()
        if self.fetch and decision.git_tag is not None and decision.git_tag.new:
            # other runs may have made versions that this clone does not have yet
            known = tags(self.git)
            fetch_tags(self.git, self._remote(decision.git_tag.name))
            if tags(self.git) != known:
                decision = self._decided()
        return dirty_decision(decision, work_tree) if work_tree.dirty else decision

    def naming(
        self, decision: Decision, work_tree: WorkTree, *, allow_dirty: bool, plan_only: bool
    ) -> Naming:
        """Raises what refuses the run, unless only the plan is shown."""
        problems = tuple(self._unreservable(decision)) if plan_only else ()
        planned = Naming(decision, problems=problems, notes=decision.notes)
        try:
            if work_tree.dirty and not allow_dirty:
                raise DirtyWorkTree(work_tree)
            return replace(planned, reuse=dict(self._reusable(decision)))
        except (DirtyWorkTree, TagConflict) as refusal:
            if not plan_only:
                raise
            verdicts = refusal.verdicts if isinstance(refusal, TagConflict) else ()
            said = (refusal.message, *verdicts, refusal.hint)
            return replace(planned, refused="; ".join(filter(None, said)))
        except (RegistryError, AuthError, ShallowClone) as error:
            if not plan_only:
                raise
            hint = f": {error.hint}" if error.hint else ""
            return replace(planned, notes=(*planned.notes, f"{_UNASKED}: {error}{hint}"))

    def _decided(self) -> Decision:
        section, event = self.project.tags, self.environment.event
        return decide(section, survey(self.git, section, event, fetch=self.fetch, now=self.now))

    def _remote(self, version: str) -> str:
        """The remote where versions are reserved. Raises GitError before any work if there is
        none.
        """
        remote = read_repository(self.git, remote=self.project.tags.remote).remote
        if not remote:
            raise no_remote(version)
        return remote

    def _unreservable(self, decision: Decision) -> Iterator[str]:
        """Why a run could not reserve its version."""
        if decision.git_tag is not None and decision.git_tag.new:
            try:
                self._remote(decision.git_tag.name)
            except GitError as error:
                yield f"{error.message}: {error.hint}"

    def _reusable(self, decision: Decision) -> Iterator[tuple[str, Digest]]:
        """The existing images of this commit, by target."""
        if not decision.push:
            return
        older = commit_order(self.git, self.project.tags.remote, fetch=self.fetch)
        for name, image in self.project.pipeline.images.items():
            placed = placements(self.environment.repositories(image), decision, older, str(image))
            if digest := reusable(placed):
                yield name, digest

    def default_branch(self) -> str:
        """What the remote says of it, for clones that do not know it; empty if it says nothing."""
        repository = read_repository(self.git, remote=self.project.tags.remote)
        with suppress(GitError):
            return remote_default_branch(self.git, repository.remote) if repository.remote else ""
        return ""

    def doubt(self) -> str:
        """Why a run, which fetches tags, may get another version than this plan."""
        try:
            return expected_decision(
                self.git, self.project.tags, self.environment.event, now=self.now
            ).doubt
        except GitError as error:
            return f"{error.message}: {error.hint}"


def dirty_decision(decision: Decision, work_tree: WorkTree) -> Decision:
    """The decision for uncommitted files: a single tag that says so, and no version."""
    name = f"dirty-{work_tree.commit[:_SHORT]}-{work_tree.tree[:_SHORT]}"
    tag = Tag(name, True, "the work tree has uncommitted changes")
    revision = {REVISION: f"{work_tree.commit}-dirty", PULL_MERGE: ""}
    return replace(
        decision,
        tags=(tag,),
        git_tag=None,
        version="",
        called=name,
        version_reason="uncommitted files get no version",
        labels=_over(decision.labels, revision),
        annotations=_over(decision.annotations, revision),
    )


def _over(labels: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """The labels overridden by others; an empty value removes one."""
    return {key: value for key, value in {**labels, **others}.items() if value}
