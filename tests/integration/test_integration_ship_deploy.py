"""Shipping goes on from the tags to the environments, as far as they let it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge import forge
from gitops import KUSTOMIZATION, GitOps, new_gitops
from nodes import Node, node
from ships import Project, new_project

CONFIGURATION = """\
image: {image}/{name}/app
steps: {count: "echo once >> ../counted"}
build: {platforms: [linux/amd64]}
environments:
  dev: {gitops: {repository: ../deploy.git, updates: [{kustomization: dev}]}}
  staging:
    gitops: {repository: ../deploy.git, updates: [{kustomization: staging}]}
    after: dev
  production:
    gitops: {repository: ../deploy.git, updates: [{kustomization: production}]}
    after: staging
    promotion: manual
"""
NAMES = ("dev", "staging", "production")
SLOW_HOOK = "#!/bin/sh\ntouch ../reached\nwhile [ -e ../wait ]; do sleep 0.05; done\n"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("chain") / "data") as started:
        yield started


@pytest.fixture
def project(tmp_path: Path, running: Node) -> Project:
    name = os.urandom(4).hex()
    made = new_project(tmp_path, running, CONFIGURATION.replace("{name}", name))
    image = f"{made.image}/{name}/app"
    files = {
        f"{place}/kustomization.yaml": KUSTOMIZATION.replace("{image}", image) for place in NAMES
    }
    new_gitops(tmp_path / "deploy.git", made.environ(), files)
    return made


@pytest.fixture
def gitops(project: Project) -> GitOps:
    return GitOps(project.root.parent / "deploy.git", project.environ())


def test_a_commit_goes_through_the_environments_until_one_waits(
    project: Project, gitops: GitOps
) -> None:
    done = project.ship()
    assert done.status == 16, done.err
    record = project.record()
    results = {step["name"]: step["results"] for step in record["steps"]}
    assert record["state"] == "pending" and "production" in record["error"]
    assert f"--resume {record['id']}" in done.err
    assert gitops.subjects()[:2] == [
        "promote app v0.1.0 from dev to staging",
        "deploy app v0.1.0 to dev",
    ]
    commits = gitops.git("log", "--format=%H", "main").split()
    assert [results[f"deploy-{name}"]["commit"] for name in NAMES[:2]] == commits[1::-1]
    digest = results["build"]["digest"]
    assert all(digest in gitops.show(f"{name}/kustomization.yaml") for name in NAMES[:2])
    assert "none" in gitops.show("production/kustomization.yaml")
    assert f"Shipline-Run: {record['id']}" in gitops.git("log", "-1", "--format=%B", "main")
    assert f"staging: {results['publish']['images'][0]}" in done.err


def test_a_run_goes_on_once_a_person_promoted(project: Project, gitops: GitOps) -> None:
    assert project.ship().status == 16
    project.run("promote", "--env", "production").ok()
    project.ship("--resume").ok()
    assert gitops.subjects()[0] == "promote app v0.1.0 from staging to production"
    assert len(gitops.subjects()) == 4 and project.record()["state"] == "passed"


def test_a_run_waits_for_a_pull_request_and_goes_on_once_it_is_merged(
    project: Project, gitops: GitOps
) -> None:
    url = "https://git.example/team/deploy.git"
    with forge("secret") as server:
        place = f"{url}, api: {server.url}/api/v3, pull-request: true"
        text = (project.root / "shipline.yaml").read_text().replace("../deploy.git", place, 1)
        project.commit("feat: propose", shipline__yaml=text)
        environ = {
            "GITHUB_TOKEN": "secret",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{gitops.remote}.insteadOf",
            "GIT_CONFIG_VALUE_0": url,
        }
        words = ("--until", "staging")
        waits = project.ship(*words, **environ)
        assert waits.status == 16 and f"{server.url}/requests/1" in waits.err, waits.err
        assert gitops.subjects() == ["begin"]
        gitops.git("update-ref", "refs/heads/main", "refs/heads/shipline/dev/app")
        project.ship("--resume", *words, **environ).ok()
    assert [line.rpartition(" ")[2] for line in gitops.subjects()[:2]] == ["staging", "dev"]


def test_a_run_ends_where_it_is_told_to_and_goes_on_when_resumed(
    project: Project, gitops: GitOps
) -> None:
    project.ship("--until", "publish").ok()
    assert gitops.subjects() == ["begin"]
    project.ship("--resume", "--until", "dev").ok()
    assert gitops.subjects()[0] == "deploy app v0.1.0 to dev"
    project.ship("--resume", "--until", "staging").ok()
    assert gitops.subjects()[0].endswith("to staging") and len(gitops.subjects()) == 3
    assert (project.root.parent / "counted").read_text() == "once\n"


def test_a_killed_run_deploys_once(project: Project, gitops: GitOps) -> None:
    """Killed after the push to dev was received, before it was answered."""
    place, hook = project.root.parent, gitops.remote / "hooks/post-receive"
    (place / "wait").touch()
    hook.write_text(SLOW_HOOK)
    hook.chmod(0o755)
    with project.start("ship", "--until", "staging") as process:
        end = time.monotonic() + WAIT_S
        while not (place / "reached").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        (place / "wait").unlink()
        process.communicate(timeout=WAIT_S)
    assert project.states()["deploy-dev"] == "interrupted"
    project.ship("--resume", "--until", "staging").ok()
    assert len(gitops.subjects()) == 3
    assert (place / "counted").read_text() == "once\n"


def test_the_branch_of_a_feature_is_deployed_nowhere(project: Project, gitops: GitOps) -> None:
    project.git("switch", "--quiet", "--create", "feature/x")
    project.git("push", "--quiet", "origin", "feature/x")
    project.ship().ok()
    assert gitops.subjects() == ["begin"]
    assert project.states()["deploy-dev"] == "skipped"


def test_the_plan_says_where_the_image_goes(project: Project) -> None:
    shown = project.ship("--plan").ok().out
    assert "deploy-dev" in shown and "shipline promote --from staging --env production" in shown


def test_what_is_shown_at_the_end_of_a_run_is_in_its_record(project: Project) -> None:
    project.ship("--until", "dev").ok()
    shown = project.run("runs", "show", "latest").ok().out
    assert "dev: " in shown.splitlines()[-1] and "@sha256:" in shown.splitlines()[-1]


def test_the_next_environment_waits_for_the_checks_of_the_one_before(
    project: Project, gitops: GitOps
) -> None:
    checks = "checks: {smoke: {run: 'echo tried; test ! -e ../broken'}}"
    text = (project.root / "shipline.yaml").read_text()
    text = text.replace("{kustomization: dev}]}", "{kustomization: dev}]}, " + checks)
    project.commit("feat: checks", **{"shipline.yaml": text})
    broken = project.root.parent / "broken"
    broken.touch()
    failed = project.ship()
    assert failed.status == 17 and "smoke: it ended with 1" in failed.err and "tried" in failed.err
    assert project.states()["deploy-dev"] == "failed"
    assert _verdicts(gitops) == ["fail"] and _deployed(gitops) == ["dev"]
    broken.unlink()
    done = project.ship("--resume", project.record()["id"])
    assert done.status == 16, done.err  # production waits for a person
    assert _verdicts(gitops) == ["pass", "fail"] and _deployed(gitops) == ["staging", "dev"]


def _trailers(gitops: GitOps, name: str) -> list[str]:
    messages = gitops.git("log", "--format=%B", "main").splitlines()
    return [line.partition(": ")[2] for line in messages if line.startswith(f"{name}: ")]


def _verdicts(gitops: GitOps) -> list[str]:
    return _trailers(gitops, "Shipline-Verdict")


def _deployed(gitops: GitOps) -> list[str]:
    """The environments that were deployed to, newest first."""
    subjects = gitops.git("log", "--format=%s", "main").splitlines()
    return [line.rpartition(" ")[2] for line in subjects if line.startswith(("deploy", "promote"))]
