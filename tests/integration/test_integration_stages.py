"""What the jobs of environments run: the approvals of the job count, and nobody is asked twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from answers import answers
from nodes import node
from promotions import Delivered, delivered, publish

RULES = {
    "dev": "",
    "staging": 'after: dev\napprovals: {required: 2}\nchecks: {smoke: {run: "test ! -e broken"}}',
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivered]:
    place = tmp_path_factory.mktemp("stages")
    with node(place / "data") as running:
        yield delivered(publish(place / "published", running), place, RULES)


def test_reviewers_of_a_job_are_approvers_and_its_commit_is_promoted(chain: Delivered) -> None:
    commit = chain.project.git("rev-parse", "HEAD")
    chain.run("deploy", "--env", "dev", "--wait").ok()
    promote = ("promote", "--env", "staging", "--wait", commit)
    assert chain.run(*promote).status == 16
    with answers() as server:
        environment = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": server.url,
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_REPOSITORY": "team/app",
            "GITHUB_RUN_ID": "7",
            "GITHUB_SHA": commit,
            "GITHUB_TOKEN": "token",
            "GITHUB_REF": "refs/heads/main",
            "GITHUB_EVENT_NAME": "push",
        }
        staging = [{"id": 1, "name": "staging"}]
        server.documents = {
            "/repos/team/app/actions/runs/7/approvals": [
                {"state": "approved", "environments": staging, "user": {"login": login}}
                for login in ("al", "bo")
            ],
            f"/repos/team/app/commits/{commit}": {"author": {"login": "n"}},
            "/users/al": {"id": 1, "name": "Al", "email": "al@example.org"},
            "/users/bo": {"id": 2, "name": "Bo", "email": None},
        }
        approve = ("approve", "--env", "staging", "--from-ci", commit)
        said = chain.project.run(*approve, **environment).ok().err
        assert "by al@example.org" in said and "by 2+bo@users.noreply.github.com" in said
        again = chain.project.run(*approve, **environment).ok().err
        assert again.count("has approved") == 2
    chain.run(*promote).ok()
    assert chain.deployed("staging") == "v0.2.0"
    assert chain.gitops.subjects()[:2] == [
        "verify app v0.2.0 in staging: pass",
        "promote app v0.2.0 from dev to staging",
    ]
    count = len(chain.gitops.subjects())
    chain.run(*promote).ok()  # a job that runs again finds everything done
    assert len(chain.gitops.subjects()) == count


def test_a_failed_check_fails_the_job(chain: Delivered) -> None:
    """The environment has the image, which is verified again once it is well."""
    chain.run("deploy", "--env", "dev", f"{chain.image}:v0.1.0", "--allow-older", "--wait").ok()
    for person in ("al@example.org", "bo@example.org"):
        chain.run("approve", "--env", "staging", by=person).ok()
    broken = chain.project.root / "broken"
    broken.touch()
    promote = ("promote", "--env", "staging", "--allow-older", "--wait")
    failed = chain.run(*promote)
    assert failed.status == 17 and "smoke" in failed.err
    broken.unlink()
    chain.run(*promote).ok()
    assert chain.gitops.subjects()[:3] == [
        "verify app v0.1.0 in staging: pass",
        "verify app v0.1.0 in staging: fail",
        "promote app v0.1.0 from dev to staging",
    ]


def test_outside_of_a_job_nobody_is_known_to_have_approved(
    chain: Delivered, tmp_path: Path
) -> None:
    said = chain.run("approve", "--env", "staging", "--from-ci")
    assert said.status == 2 and "not a job of GitHub Actions or GitLab CI" in said.err
