"""Events: what each CI system puts into the environment comes out the same."""

from __future__ import annotations

from typing import Any

import pytest

from shipline.errors import UsageError
from shipline.tags import Event, event_from

SHA = "a" * 40
HEAD = "b" * 40

BRANCHES = [
    {"GITHUB_ACTIONS": "true", "GITHUB_REF": "refs/heads/x/y", "GITHUB_EVENT_NAME": "push"},
    {"GITLAB_CI": "true", "CI_COMMIT_BRANCH": "x/y"},
    {"TF_BUILD": "True", "BUILD_SOURCEBRANCH": "refs/heads/x/y"},
    {"JENKINS_URL": "http://j", "BRANCH_NAME": "x/y"},
    {"JENKINS_URL": "http://j", "GIT_BRANCH": "origin/x/y"},
    {"JENKINS_URL": "http://j", "GIT_BRANCH": "origin/x/y", "GIT_LOCAL_BRANCH": "x/y"},
    {"BITBUCKET_BUILD_NUMBER": "1", "BITBUCKET_BRANCH": "x/y"},
    {"CIRCLECI": "true", "CIRCLE_BRANCH": "x/y"},
    {"CI_WORKFLOW_NAME": "w", "CI_COMMIT_BRANCH": "x/y"},
    {"BUILDKITE": "true", "BUILDKITE_BRANCH": "x/y", "BUILDKITE_PULL_REQUEST": "false"},
]
TAGS = [
    {"GITHUB_ACTIONS": "true", "GITHUB_REF": "refs/tags/v1.0.0", "GITHUB_EVENT_NAME": "release"},
    {"GITLAB_CI": "true", "CI_COMMIT_TAG": "v1.0.0"},
    {"TF_BUILD": "True", "BUILD_SOURCEBRANCH": "refs/tags/v1.0.0"},
    {"JENKINS_URL": "http://j", "BRANCH_NAME": "v1.0.0", "TAG_NAME": "v1.0.0"},
    {"BITBUCKET_BUILD_NUMBER": "1", "BITBUCKET_TAG": "v1.0.0"},
    {"CIRCLECI": "true", "CIRCLE_TAG": "v1.0.0"},
    {"CI_WORKFLOW_NAME": "w", "CI_COMMIT_TAG": "v1.0.0", "CI_COMMIT_BRANCH": "main"},
    {"BUILDKITE": "true", "BUILDKITE_BRANCH": "main", "BUILDKITE_TAG": "v1.0.0"},
]
PULLS: list[dict[str, str]] = [
    {
        "GITLAB_CI": "true",
        "CI_MERGE_REQUEST_IID": "7",
        "CI_COMMIT_SHA": HEAD,
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
    },
    {
        "GITLAB_CI": "true",
        "CI_MERGE_REQUEST_IID": "7",
        "CI_MERGE_REQUEST_REF_PATH": "refs/merge-requests/7/merge",
        "CI_COMMIT_SHA": SHA,
        "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": HEAD,
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
    },
    {
        "TF_BUILD": "True",
        "BUILD_SOURCEBRANCH": "refs/pull/7/merge",
        "SYSTEM_PULLREQUEST_SOURCECOMMITID": HEAD,
        "SYSTEM_PULLREQUEST_TARGETBRANCH": "refs/heads/main",
    },
    {
        "BITBUCKET_BUILD_NUMBER": "1",
        "BITBUCKET_PR_ID": "7",
        "BITBUCKET_COMMIT": HEAD,
        "BITBUCKET_BRANCH": "x",
        "BITBUCKET_PR_DESTINATION_BRANCH": "main",
    },
    {
        "CI_WORKFLOW_NAME": "w",
        "CI_COMMIT_PULL_REQUEST": "7",
        "CI_COMMIT_SHA": HEAD,
        "CI_COMMIT_TARGET_BRANCH": "main",
    },
]


@pytest.mark.parametrize("environ", BRANCHES, ids=lambda one: next(iter(one)))
def test_a_push_is_a_branch(environ: dict[str, str]) -> None:
    event = event_from(environ)
    assert (event.kind, event.branch, event.number, event.ci) == ("push", "x/y", "", True)


@pytest.mark.parametrize("environ", TAGS, ids=lambda one: next(iter(one)))
def test_a_tag_is_a_tag(environ: dict[str, str]) -> None:
    event = event_from(environ)
    assert (event.kind, event.tag, event.branch) == ("tag", "v1.0.0", "")


@pytest.mark.parametrize("environ", PULLS, ids=lambda one: next(iter(one)))
def test_a_pull_request_has_number_head_and_base(environ: dict[str, str]) -> None:
    event = event_from(environ)
    found = (event.kind, event.number, event.head, event.base)
    assert found == ("pull-request", "7", HEAD, "main")


def test_github_tells_the_head_in_the_event_file() -> None:
    environ = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": "pull_request",
        "GITHUB_REF": "refs/pull/7/merge",
        "GITHUB_SHA": SHA,
        "GITHUB_HEAD_REF": "x",
        "GITHUB_BASE_REF": "main",
    }
    payload = {
        "pull_request": {"number": 7, "head": {"sha": HEAD}},
        "repository": {
            "default_branch": "main",
            "name": "app",
            "license": {"spdx_id": "MIT"},
            "html_url": "https://github.com/o/app",
        },
    }
    event = event_from(environ, payload)
    assert (event.number, event.head, event.sha, event.base) == ("7", HEAD, SHA, "main")
    assert (event.title, event.licenses, event.default_branch) == ("app", "MIT", "main")
    target = {
        **environ,
        "GITHUB_EVENT_NAME": "pull_request_target",
        "GITHUB_REF": "refs/heads/main",
    }
    trusted = event_from(target, payload)  # GITHUB_REF is the base there, which is not built
    assert (trusted.kind, trusted.branch, trusted.number) == ("pull-request", "", "7")


@pytest.mark.parametrize(
    "payload", [{}, {"pull_request": 3, "repository": []}, {"pull_request": {"head": None}}]
)
def test_an_event_file_of_another_shape_is_read_as_far_as_it_goes(payload: dict[str, Any]) -> None:
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_REF": "refs/pull/7/merge"}
    assert event_from(environ, payload).number == "7"


def test_the_merge_queue_is_a_pull_request_that_is_not_pushed() -> None:
    environ = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": "merge_group",
        "GITHUB_REF": f"refs/heads/gh-readonly-queue/release/1/pr-7-{HEAD}",
        "GITHUB_SHA": SHA,
    }
    found = event_from(environ)
    assert (found.kind, found.number, found.base) == ("pull-request", "7", "release/1")
    assert (found.head, found.sha) == (SHA, SHA)  # what the base would become is what is built
    payload = {"merge_group": {"base_ref": "refs/heads/main"}}
    assert event_from(environ, payload).base == "main"
    assert event_from({**environ, "GITHUB_REF": "refs/heads/other"}).kind == "push"


@pytest.mark.parametrize(
    "environ",
    [
        {
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_NAME": "schedule",
            "GITHUB_REF": "refs/heads/main",
        },
        {"GITLAB_CI": "true", "CI_PIPELINE_SOURCE": "schedule", "CI_COMMIT_BRANCH": "main"},
        {"TF_BUILD": "True", "BUILD_REASON": "Schedule", "BUILD_SOURCEBRANCH": "refs/heads/main"},
    ],
    ids=lambda one: next(iter(one)),
)
def test_a_schedule_is_one(environ: dict[str, str]) -> None:
    event = event_from(environ)
    assert (event.kind, event.branch) == ("schedule", "main")


def test_a_detached_jenkins_checkout_is_no_branch() -> None:
    assert event_from({"JENKINS_URL": "http://j", "GIT_BRANCH": "detached"}).ref == ""


def test_without_ci_there_is_no_ref() -> None:
    assert event_from({"HOME": "/root"}) == Event()
    assert event_from({"GITHUB_ACTIONS": "false"}) == Event()


def test_the_command_line_may_leave_things_out() -> None:
    assert Event.of("main").ref == "refs/heads/main"
    assert Event.of("v1.0.0", "tag").ref == "refs/tags/v1.0.0"
    assert Event.of("refs/tags/v1.0.0").kind == "tag"
    assert Event.of("refs/pull/3/merge").number == "3"
    assert Event.of("", "pull-request", "3").kind == "pull-request"
    with pytest.raises(UsageError, match="needs a number"):
        Event.of("main", "pull-request")
    with pytest.raises(UsageError, match="not an event"):
        Event.of("main", "release")
