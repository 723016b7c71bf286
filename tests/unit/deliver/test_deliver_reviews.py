"""Who approved a job: the reviewers on GitHub, the user who started it on GitLab."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from answers import Answers, answers
from shipline.api import open_client
from shipline.deliver.reviews import Reviewer, job_reviewers
from shipline.errors import AuthError, RegistryError, UsageError

PRODUCTION = [{"id": 1, "name": "production"}]
GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "team/app",
    "GITHUB_RUN_ID": "7",
    "GITHUB_SHA": "c" * 40,
    "GITHUB_TOKEN": "token",
}
GITLAB = {"GITLAB_CI": "true", "CI_SERVER_URL": "https://gitlab.example:8443"}


@pytest.fixture
def server() -> Iterator[Answers]:
    with answers() as running:
        yield running


def reviewers(server: Answers, environ: dict[str, str]) -> tuple[Reviewer, ...]:
    apis = {"GITHUB_API_URL": server.url, "CI_API_V4_URL": f"{server.url}/api/v4"}
    with open_client() as client:
        return job_reviewers(client.http, {**apis, **environ}, "production")


def review(login: str, state: str = "approved", environments: Any = PRODUCTION) -> Any:
    return {"state": state, "environments": environments, "user": {"login": login, "id": 1}}


def test_reviewers_of_the_environment_approved_a_job_of_github(server: Answers) -> None:
    server.documents = {
        "/repos/team/app/actions/runs/7/approvals": [
            review("bo"),
            review("al"),
            review("al"),
            review("no", state="rejected"),
            review("other", environments=[{"id": 2, "name": "staging"}]),
            review("author"),
        ],
        f"/repos/team/app/commits/{'c' * 40}": {"author": {"login": "author"}},
        "/users/al": {"id": 11, "login": "al", "name": "Al", "email": "al@example.org"},
        "/users/bo": {"id": 12, "login": "bo", "name": None, "email": None},
    }
    assert reviewers(server, GITHUB) == (
        Reviewer("Al", "al@example.org"),
        Reviewer("bo", "12+bo@users.noreply.github.com"),
    )
    assert {seen["authorization"] for seen in server.seen} == {"Bearer token"}


def test_an_environment_without_reviewers_has_none(server: Answers) -> None:
    server.documents = {
        "/repos/team/app/actions/runs/7/approvals": [],
        f"/repos/team/app/commits/{'c' * 40}": {"author": None},
    }
    assert reviewers(server, GITHUB) == ()


def test_nobody_approves_where_the_author_may_be_anybody(server: Answers) -> None:
    server.documents = {
        "/repos/team/app/actions/runs/7/approvals": [review("al")],
        f"/repos/team/app/commits/{'c' * 40}": {"author": None},
    }
    with pytest.raises(UsageError, match="does not know who wrote cccccccccccc"):
        reviewers(server, GITHUB)


def test_the_user_of_a_job_of_gitlab_is_the_one_that_the_server_names(server: Answers) -> None:
    user = {"id": 5, "username": "cy", "name": "Cy", "public_email": ""}
    server.documents = {"/api/v4/job": {"user": user}}
    environ = {**GITLAB, "CI_JOB_TOKEN": "job", "GITLAB_USER_EMAIL": "boss@example.org"}
    assert reviewers(server, environ) == (Reviewer("Cy", "5-cy@users.noreply.gitlab.example"),)
    assert server.seen[0]["job-token"] == "job"


@pytest.mark.parametrize(
    "commit", [{"author_email": "cy@example.org"}, {"author_email": "x", "author_name": "Cy"}]
)
def test_the_author_who_starts_a_job_of_gitlab_approves_nothing(
    server: Answers, commit: dict[str, str]
) -> None:
    user = {"id": 5, "username": "cy", "name": "Cy", "public_email": ""}
    server.documents = {"/api/v4/job": {"user": user, "commit": commit}}
    environ = {**GITLAB, "CI_JOB_TOKEN": "job", "GITLAB_USER_EMAIL": "cy@example.org"}
    assert reviewers(server, environ) == ()


@pytest.mark.parametrize(
    "wrong", [[], {"message": "x"}, "<html>", 1, None, [{"state": "approved"}]]
)
def test_what_is_no_answer_of_the_server_is_said(server: Answers, wrong: Any) -> None:
    server.documents = {
        "/repos/team/app/actions/runs/7/approvals": wrong,
        f"/repos/team/app/commits/{'c' * 40}": wrong,
        "/api/v4/job": wrong,
    }
    with pytest.raises(RegistryError, match="is not the API of GitHub"):
        reviewers(server, GITHUB)
    with pytest.raises(RegistryError, match="is not the API of GitLab"):
        reviewers(server, {**GITLAB, "CI_JOB_TOKEN": "job"})


def test_what_is_missing_is_named(server: Answers) -> None:
    with pytest.raises(UsageError, match="the variable GITHUB_SHA is not set"):
        reviewers(server, {**GITHUB, "GITHUB_SHA": ""})
    with pytest.raises(UsageError, match="not a job of GitHub Actions or GitLab CI"):
        reviewers(server, {})
    with pytest.raises(AuthError, match="CI_JOB_TOKEN, which is not set"):
        reviewers(server, GITLAB)
    with pytest.raises(RegistryError):
        reviewers(server, GITHUB)
