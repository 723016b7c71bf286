"""Who approved the job of a CI system that runs this process: the reviewers of its environment on
GitHub, the user who started it by hand on GitLab.

The server is asked, with the token of the job: variables could be set by others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shipline.deliver.delivery import Delivery
from shipline.deliver.promotion import PromotionRefused, approve
from shipline.deliver.rest import call_json, expecting_api
from shipline.errors import AuthError, UsageError
from shipline.registry.http import HttpClient
from shipline.registry.request import Url
from shipline.values import replace


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A person with the address that git knows them by: the public one, else the one that the
    server gives them for commits.
    """

    name: str
    email: str


def approve_reviewed(
    delivery: Delivery, name: str, *, image: str = "", reason: str = ""
) -> Iterator[str]:
    """Approve images for an environment in the name of each person who approved this job: its
    reviewers are not asked twice. Gives a line for each; those whose approval does not count, or
    who approved before, are named with the reason.

    Raises what `job_reviewers` and `approve` raise, but for what concerns one person.
    """
    reviewers = job_reviewers(delivery.http, delivery.environ, name)
    if not reviewers:
        yield f"nobody had to approve this job for {name}"
    for reviewer in reviewers:
        identity = {
            f"GIT_{role}_{key}": value
            for role in ("AUTHOR", "COMMITTER")
            for key, value in (("NAME", reviewer.name), ("EMAIL", reviewer.email))
        }
        known = replace(delivery, environ={**delivery.environ, **identity})
        try:
            done = approve(known, name, image=image, reason=reason or "approved in CI")
            yield f"{done.subject}, by {reviewer.email}: {done.id}"
        except PromotionRefused as refusal:
            yield f"{reviewer.email}: {refusal.message}"


def job_reviewers(
    http: HttpClient, environ: Mapping[str, str], environment: str
) -> tuple[Reviewer, ...]:
    """Those who approved this job for an environment, but for the author of its commit.
    Raises UsageError outside of such a job, and if the server does not know who the author is;
    AuthError, RegistryError.
    """
    on_github = environ.get("GITHUB_ACTIONS") == "true"
    server, api = ("GitHub", "GITHUB_API_URL") if on_github else ("GitLab", "CI_API_V4_URL")
    if not on_github and environ.get("GITLAB_CI") != "true":
        raise UsageError(
            "this is not a job of GitHub Actions or GitLab CI",
            code="review-unknown",
            hint="approve it without --from-ci",
        )
    _variable(environ, api)
    with expecting_api(server, environ[api], f"look at the variable {api}"):
        found = _on_github(http, environ, environment) if on_github else _on_gitlab(http, environ)
        return tuple(found)


def _on_github(
    http: HttpClient, environ: Mapping[str, str], environment: str
) -> Iterator[Reviewer]:
    """docs.github.com/rest/actions/workflow-runs, "Get the review history for a workflow run"."""
    api = environ["GITHUB_API_URL"]
    place = f"{api}/repos/{_variable(environ, 'GITHUB_REPOSITORY')}"
    run, sha = _variable(environ, "GITHUB_RUN_ID"), _variable(environ, "GITHUB_SHA")
    host = _host(_variable(environ, "GITHUB_SERVER_URL"))
    token = _token(environ, "GITHUB_TOKEN")
    headers = {"Authorization": f"Bearer {token}"}
    reviews = _get(http, f"{place}/actions/runs/{run}/approvals", headers)
    commit = _get(http, f"{place}/commits/{sha}", headers)
    author = (commit.get("author") or {}).get("login", "")
    logins = {
        review["user"]["login"]
        for review in reviews
        if review["state"] == "approved"
        and environment in [one["name"] for one in review["environments"]]
    }
    if logins and not author:
        raise UsageError(
            f"GitHub does not know who wrote {sha[:12]}, who may be one of those who approved",
            code="review-unknown",
            hint="add the address of its author to their account, or approve it without --from-ci",
        )
    for login in sorted(logins - {author}):
        user = _get(http, f"{api}/users/{login}", headers)
        own = f"{user['id']}+{login}@users.noreply.{host}"
        yield Reviewer(user.get("name") or login, user.get("email") or own)


def _on_gitlab(http: HttpClient, environ: Mapping[str, str]) -> Iterator[Reviewer]:
    """docs.gitlab.com/api/jobs, "Get job token's job"."""
    headers = {"JOB-TOKEN": _token(environ, "CI_JOB_TOKEN")}
    job = _get(http, f"{environ['CI_API_V4_URL']}/job", headers)
    user, commit = job["user"], job.get("commit") or {}
    host = _host(_variable(environ, "CI_SERVER_URL"))
    own = f"{user['id']}-{user['username']}@users.noreply.{host}"
    reviewer = Reviewer(user["name"], user.get("public_email") or own)
    addresses = (reviewer.email, own, environ.get("GITLAB_USER_EMAIL"))
    is_author = commit.get("author_email") in addresses
    if not is_author and commit.get("author_name") != reviewer.name:
        yield reviewer


def _variable(environ: Mapping[str, str], name: str) -> str:
    if value := environ.get(name):
        return value
    raise UsageError(f"the variable {name} is not set, which jobs have", code="variable-missing")


def _token(environ: Mapping[str, str], name: str) -> str:
    if token := environ.get(name):
        return token
    raise AuthError(
        f"the reviewers of a job are asked for with {name}, which is not set",
        code="review-token",
        host="",
    )


def _host(server: str) -> str:
    return server.partition("://")[2].partition("/")[0].partition(":")[0]


def _get(http: HttpClient, url: str, headers: Mapping[str, str]) -> Any:
    return call_json(http, Url.parse(url), headers, operation="asking who approved the job")
