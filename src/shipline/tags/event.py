"""The event that a pipeline runs for, as reported by CI systems, and the situation it is decided
in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from shipline.errors import InvalidFlag
from shipline.git import Commit
from shipline.values import replace

Kind = Literal["push", "tag", "pull-request", "schedule"]
KINDS: tuple[Kind, ...] = ("push", "tag", "pull-request", "schedule")
COMMAND_LINE = "the command line"
"""The source of events that a person named."""

_HEADS, _TAGS = "refs/heads/", "refs/tags/"


@dataclass(frozen=True, slots=True)
class Event:
    """The event and its ref. Unknown fields are empty.

    `sha` is the commit that the pipeline was started for, `head` the commit of a pull request's
    branch, `base` its target branch, `source` where the event comes from ("GitHub Actions",
    "--ref", ...). `short_sha` is the minimum number of digits of docker/metadata-action's short
    sha.
    """

    kind: Kind = "push"
    ref: str = ""
    sha: str = ""
    number: str = ""
    head: str = ""
    head_branch: str = ""
    base: str = ""
    default_branch: str = ""
    source: str = ""
    ci: bool = False
    title: str = ""
    description: str = ""
    url: str = ""
    licenses: str = ""
    short_sha: int = 7

    @property
    def branch(self) -> str:
        """The branch that was pushed; empty on other refs."""
        return self.ref.removeprefix(_HEADS) if self.ref.startswith(_HEADS) else ""

    @property
    def tag(self) -> str:
        """The git tag that was pushed; empty on other refs."""
        return self.ref.removeprefix(_TAGS) if self.ref.startswith(_TAGS) else ""

    @classmethod
    def of(cls, ref: str, kind: str = "", number: str = "") -> Self:
        """The event from command-line options; `ref` may omit `refs/heads/`. Raises UsageError for
        an unknown event, or a pull request without a number.
        """
        if kind and kind not in KINDS:
            raise InvalidFlag(f"not an event: {kind}", hint=f"one of {', '.join(KINDS)}")
        full_ref = ref_of(ref, tag=kind == "tag") if ref else ""
        number = number or pull_number(full_ref)
        event_kind = next(
            (candidate for candidate in KINDS if candidate == kind), _kind(full_ref, number)
        )
        if event_kind == "pull-request" and not number:
            raise InvalidFlag(
                "a pull request needs a number", hint="--ref refs/pull/NUMBER/merge, or --pr"
            )
        return cls(event_kind, full_ref, number=number, source=COMMAND_LINE)


def ref_of(name: str, *, tag: bool = False) -> str:
    """The full ref name of a branch or tag name."""
    return name if name.startswith("refs/") else (_TAGS if tag else _HEADS) + name


def pull_number(ref: str) -> str:
    """The number in `refs/pull/N/merge` and `refs/merge-requests/N/head`, else empty."""
    parts = ref.split("/")
    is_pull = len(parts) > 2 and parts[0] == "refs" and parts[1] in {"pull", "merge-requests"}
    return parts[2] if is_pull and parts[2].isdecimal() else ""


def _kind(ref: str, number: str) -> Kind:
    if number:
        return "pull-request"
    return "tag" if ref.startswith(_TAGS) else "push"


@dataclass(frozen=True, slots=True)
class _System:
    """The variables of a CI system; of several names the first that is set is used."""

    name: str
    marker: str
    sha: tuple[str, ...]
    branch: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    ref: tuple[str, ...] = ()
    number: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    head_branch: tuple[str, ...] = ()
    base: tuple[str, ...] = ()
    default_branch: tuple[str, ...] = ()
    url: tuple[str, ...] = ()
    schedule: tuple[str, str] = ("", "")


_SYSTEMS = (
    _System(
        "GitLab CI",
        "GITLAB_CI",
        sha=("CI_COMMIT_SHA",),
        branch=("CI_COMMIT_BRANCH",),
        tag=("CI_COMMIT_TAG",),
        ref=("CI_MERGE_REQUEST_REF_PATH",),
        number=("CI_MERGE_REQUEST_IID",),
        head=("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", "CI_COMMIT_SHA"),
        head_branch=("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME",),
        base=("CI_MERGE_REQUEST_TARGET_BRANCH_NAME",),
        default_branch=("CI_DEFAULT_BRANCH",),
        url=("CI_PROJECT_URL",),
        schedule=("CI_PIPELINE_SOURCE", "schedule"),
    ),
    _System(
        "Azure Pipelines",
        "TF_BUILD",
        sha=("BUILD_SOURCEVERSION",),
        ref=("BUILD_SOURCEBRANCH",),
        number=("SYSTEM_PULLREQUEST_PULLREQUESTNUMBER", "SYSTEM_PULLREQUEST_PULLREQUESTID"),
        head=("SYSTEM_PULLREQUEST_SOURCECOMMITID",),
        head_branch=("SYSTEM_PULLREQUEST_SOURCEBRANCH",),
        base=("SYSTEM_PULLREQUEST_TARGETBRANCH",),
        schedule=("BUILD_REASON", "Schedule"),
    ),
    _System(
        "Jenkins",
        "JENKINS_URL",
        sha=("GIT_COMMIT",),
        branch=("BRANCH_NAME", "GIT_LOCAL_BRANCH", "GIT_BRANCH"),  # the others: a single branch
        tag=("TAG_NAME",),
        number=("CHANGE_ID",),
        head_branch=("CHANGE_BRANCH",),
        base=("CHANGE_TARGET",),
    ),
    _System(
        "Bitbucket Pipelines",
        "BITBUCKET_BUILD_NUMBER",
        sha=("BITBUCKET_COMMIT",),
        branch=("BITBUCKET_BRANCH",),
        tag=("BITBUCKET_TAG",),
        number=("BITBUCKET_PR_ID",),
        head=("BITBUCKET_COMMIT",),
        head_branch=("BITBUCKET_BRANCH",),
        base=("BITBUCKET_PR_DESTINATION_BRANCH",),
        url=("BITBUCKET_GIT_HTTP_ORIGIN",),
    ),
    _System(
        "CircleCI",
        "CIRCLECI",
        sha=("CIRCLE_SHA1",),
        branch=("CIRCLE_BRANCH",),
        tag=("CIRCLE_TAG",),
        number=("CIRCLE_PR_NUMBER",),
        head=("CIRCLE_SHA1",),
        head_branch=("CIRCLE_BRANCH",),
    ),
    _System(
        "Woodpecker CI",
        "CI_WORKFLOW_NAME",
        sha=("CI_COMMIT_SHA",),
        branch=("CI_COMMIT_BRANCH",),
        tag=("CI_COMMIT_TAG",),
        number=("CI_COMMIT_PULL_REQUEST",),
        head=("CI_COMMIT_SHA",),
        head_branch=("CI_COMMIT_SOURCE_BRANCH",),
        base=("CI_COMMIT_TARGET_BRANCH",),
        default_branch=("CI_REPO_DEFAULT_BRANCH",),
        schedule=("CI_PIPELINE_EVENT", "cron"),
    ),
    _System(
        "Buildkite",
        "BUILDKITE",
        sha=("BUILDKITE_COMMIT",),
        branch=("BUILDKITE_BRANCH",),
        tag=("BUILDKITE_TAG",),
        head=("BUILDKITE_COMMIT",),
        head_branch=("BUILDKITE_BRANCH",),
        base=("BUILDKITE_PULL_REQUEST_BASE_BRANCH",),
        default_branch=("BUILDKITE_PIPELINE_DEFAULT_BRANCH",),
        schedule=("BUILDKITE_SOURCE", "schedule"),
    ),
)
_NO = {"", "false"}
_QUEUE = re.compile(r"gh-readonly-queue/(?P<base>.+)/pr-(?P<number>\d+)-[0-9a-f]{40,64}")


def event_from(environ: Mapping[str, str], payload: Mapping[str, Any] | None = None) -> Event:
    """The event of the CI system in `environ`; an Event without a ref outside CI.

    `payload` is the document in the file GITHUB_EVENT_PATH.
    """
    if environ.get("GITHUB_ACTIONS", "") not in _NO:
        return _github(environ, payload or {})
    for system in _SYSTEMS:
        if environ.get(system.marker, "") not in _NO:
            return _read(system, environ)
    return Event()


def _github(environ: Mapping[str, str], payload: Mapping[str, Any]) -> Event:
    ref, name = environ.get("GITHUB_REF", ""), environ.get("GITHUB_EVENT_NAME", "")
    pull, repository = _part(payload, "pull_request"), _part(payload, "repository")
    number = pull_number(ref)
    if name in {"pull_request", "pull_request_target"} or number:
        number = number or _text(pull, "number") or _text(payload, "number")
    kind: Kind = "tag" if ref.startswith("refs/tags/") else "push"
    if number:
        kind, ref = "pull-request", ref if pull_number(ref) else f"refs/pull/{number}/head"
    elif name == "schedule":
        kind = "schedule"
    event = Event(
        kind,
        ref,
        sha=environ.get("GITHUB_SHA", ""),
        number=number,
        head=_text(_part(pull, "head"), "sha"),
        head_branch=environ.get("GITHUB_HEAD_REF", ""),
        base=environ.get("GITHUB_BASE_REF") or _branch(_text(payload, "base_ref")),
        default_branch=_text(repository, "default_branch") or _default(name, ref),
        source="GitHub Actions",
        ci=True,
        title=_text(repository, "name"),
        description=_text(repository, "description"),
        url=_text(repository, "html_url") or _github_url(environ),
        licenses=_text(_part(repository, "license"), "spdx_id"),
    )
    return _queued(event, payload) if name == "merge_group" else event


def _default(name: str, ref: str) -> str:
    """The branch of events that only occur on the default branch.

    Source: GitHub Docs, "Events that trigger workflows" (GITHUB_REF of each).
    """
    always = name == "schedule" or name.startswith(("discussion", "issues"))
    return _branch(ref) if always and ref.startswith("refs/heads/") else ""


def _queued(event: Event, payload: Mapping[str, Any]) -> Event:
    """A pull request in the merge queue: its commit is what the base branch would become."""
    match = _QUEUE.fullmatch(event.branch)
    if not match:
        return event
    base = _branch(_text(_part(payload, "merge_group"), "base_ref")) or match["base"]
    number = match["number"]
    return replace(event, kind="pull-request", number=number, head=event.sha, base=base)


def _github_url(environ: Mapping[str, str]) -> str:
    server, name = environ.get("GITHUB_SERVER_URL", ""), environ.get("GITHUB_REPOSITORY", "")
    return f"{server}/{name}" if server and name else ""


def _read(system: _System, environ: Mapping[str, str]) -> Event:
    def first(names: tuple[str, ...]) -> str:
        return next((value for name in names if (value := environ.get(name, "")) not in _NO), "")

    ref = first(system.ref)
    tag, number = first(system.tag), first(system.number)
    branch = _local(first(system.branch), environ)
    number = number or pull_number(ref)
    if not ref and (tag or branch):
        ref = ref_of(tag or branch, tag=bool(tag))
    kind: Kind = "tag" if ref.startswith("refs/tags/") else "push"
    variable, value = system.schedule
    if number:
        kind, ref = "pull-request", ref if pull_number(ref) else f"refs/pull/{number}/merge"
    elif variable and environ.get(variable) == value:
        kind = "schedule"
    return Event(
        kind,
        ref,
        sha=first(system.sha),
        number=number,
        head=first(system.head) if number else "",
        head_branch=_branch(first(system.head_branch)) if number else "",
        base=_branch(first(system.base)) if number else "",
        default_branch=first(system.default_branch),
        source=system.name,
        ci=True,
        url=first(system.url),
    )


def _local(name: str, environ: Mapping[str, str]) -> str:
    """The branch without its remote, from GIT_BRANCH of Jenkins; empty without a branch."""
    if name != environ.get("GIT_BRANCH") or "JENKINS_URL" not in environ:
        return name
    name = name.removeprefix("refs/remotes/").removeprefix("origin/")
    return "" if name == "detached" else name


def _branch(ref: str) -> str:
    return ref.removeprefix("refs/heads/")


def _part(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


@dataclass(frozen=True, slots=True)
class CommitHistory:
    """The commits since the last version. `last` is its git tag, empty if there is none. `pending`
    is the highest prerelease tag in the history above `last`. `later` are version tags of commits
    that have this one in their history.
    """

    last: str = ""
    pending: str = ""
    commits: tuple[Commit, ...] = ()
    later: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Situation:
    """A commit, its event, and its surroundings: all that a decision depends on.

    `event` has its ref. `tags` are all git tags with their commits. `history` is None if the rule
    for the event makes no version. `unique` is the number of digits that identify the commit. `tip`
    is the commit of the remote branch if it has moved on past this one. `now` is in seconds since
    1970 and only used by templates with a date.
    """

    event: Event
    commit: Commit
    tags: Mapping[str, str] = field(default_factory=dict)
    history: CommitHistory | None = None
    unique: int = 7
    tip: str = ""
    url: str = ""
    now: int = 0

    @property
    def named_commit(self) -> str:
        """The commit in tags: the head of a pull request, not its merge commit."""
        return self.event.head if self.event.kind == "pull-request" else self.commit.sha

    @property
    def is_default_branch(self) -> bool:
        """Whether the event is on the default branch, as schedules of GitHub are."""
        event = self.event
        default = event.default_branch or (event.branch if event.kind == "schedule" else "")
        return bool(event.branch) and event.branch == default
