"""Generated files pass every linter, and hold what makes them safe."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from shipline.deliver.ci import (
    INPUTS,
    CiSection,
    Pins,
    Workflow,
    buildx_workflow,
    github_workflow,
    gitlab_pipeline,
)
from shipline.deliver.ci.action import variable
from shipline.deliver.ci.steps import cache_variables
from shipline.deliver.ci.workflow import Unread, quoted
from shipline.errors import ConfigError
from shipline.values import replace
from workflows import ALL, FULL, KEYLESS, STAGED, WITH_CACHE

ROOT = Path(__file__).parents[3]
PINS = Pins.load()


def read(text: str) -> Any:
    return YAML(typ="safe").load(text)


def test_the_action_hands_over_every_input() -> None:
    action = read((ROOT / "action.yml").read_text())
    assert set(action["inputs"]) == INPUTS
    assert set(action["outputs"]) == {"imageid", "digest", "metadata"}
    handed = action["runs"]["steps"][-1]["env"]
    inputs = {variable(name): f"${{{{ inputs.{name} }}}}" for name in INPUTS}
    assert handed == {**inputs, **cache_variables(WITH_CACHE)}


def test_only_a_build_with_the_cache_of_actions_is_handed_its_token() -> None:
    action = read((ROOT / "action.yml").read_text())
    (opened,) = (step for step in steps(action) if step.get("id") == "cache")
    document = read(github_workflow(WITH_CACHE, PINS))
    for job in ("try", "build"):
        sequence = document["jobs"][job]["steps"]
        tokens = [step for step in sequence if step.get("id") == "cache"]
        assert [step["with"] for step in tokens] == [opened["with"]]
        handed = [step for step in sequence if "ACTIONS_RUNTIME_TOKEN" in step.get("env", {})]
        assert [step["name"].partition(" ")[0] for step in handed] == ["Build"]
    assert "ACTIONS_RUNTIME_TOKEN" not in str(document["jobs"]["release"])
    assert "ACTIONS_RUNTIME_TOKEN" not in github_workflow(FULL, PINS)


def steps(document: Any) -> Iterator[dict[str, Any]]:
    for job in document.get("jobs", {}).values():
        yield from job["steps"]
    yield from document.get("runs", {}).get("steps", [])


@pytest.mark.parametrize("workflow", ALL)
def test_no_script_holds_an_expression_and_every_action_is_a_commit(workflow: Workflow) -> None:
    texts = [
        github_workflow(workflow, PINS),
        buildx_workflow(workflow, PINS),
        (ROOT / "action.yml").read_text(),
    ]
    for step in (step for text in texts for step in steps(read(text))):
        assert "${{" not in step.get("run", "")
        assert re.search(r"@[0-9a-f]{40}\Z", step.get("uses", "@" + "0" * 40))


@pytest.mark.parametrize("workflow", ALL)
def test_jobs_of_pull_requests_see_no_secret_and_have_no_right_to_write(workflow: Workflow) -> None:
    document = read(github_workflow(workflow, PINS))
    assert document["permissions"] == {}
    for name, job in document["jobs"].items():
        if name == "findings" or "event_name != 'pull_request'" in job.get("if", ""):
            continue
        assert "secrets." not in str(job)
        assert set(job["permissions"].values()) == {"read"}


def test_secrets_are_in_an_environment_and_never_in_a_script() -> None:
    for name, job in read(github_workflow(FULL, PINS))["jobs"].items():
        assert ("secrets." in str(job)) == ("environment" in job), name


def test_an_identity_takes_the_place_of_stored_credentials() -> None:
    for job in ("build", "release"):
        on_github = read(github_workflow(KEYLESS, PINS))["jobs"][job]
        assert on_github["permissions"]["id-token"] == "write"
        assert "REGISTRY_PASSWORD" not in str(on_github)
        on_gitlab = read(gitlab_pipeline(KEYLESS))[job]
        assert on_gitlab["id_tokens"] == {"SHIPLINE_ID_TOKEN": {"aud": "registry"}}
        assert "REGISTRY_PASSWORD" not in str(on_gitlab)


def test_findings_of_a_pattern_are_uploaded_by_directory() -> None:
    uploads = read(github_workflow(FULL, PINS))["jobs"]["findings"]["steps"][3:]
    assert [step["with"]["sarif_file"] for step in uploads] == ["reports", "reports/lint.sarif"]


def test_each_platform_is_built_where_it_is_native() -> None:
    jobs = read(github_workflow(FULL, PINS))["jobs"]
    machines = jobs["build"]["strategy"]["matrix"]["include"]
    assert [one["runner"] for one in machines] == [
        *("ubuntu-24.04", "ubuntu-24.04-arm", "ubuntu-24.04")
    ]
    prepared = next(step for step in jobs["build"]["steps"] if step["name"].startswith("Prepare"))
    assert "qemu-user-static" in prepared["run"]  # no runner is an s390x


def test_runners_of_ones_own_have_several_labels() -> None:
    labels = ("self-hosted", "linux", "x64")
    section = CiSection(runners={"linux/amd64": labels, "linux/arm64": ("big-arm",)})
    workflow = replace(FULL, section=section)
    machines = read(github_workflow(workflow, PINS))["jobs"]["build"]["strategy"]["matrix"][
        "include"
    ]
    assert [one["runner"] for one in machines[:2]] == [[*labels], ["big-arm"]]
    with pytest.raises(ConfigError, match="one tag, not 3"):
        gitlab_pipeline(workflow)
    section = CiSection(runners={"linux/amd64": labels[:1], "linux/arm64": "big-arm"})
    jobs = read(gitlab_pipeline(replace(FULL, section=section)))["build"]["parallel"]["matrix"]
    assert [one["RUNNER"] for one in jobs[:2]] == ["self-hosted", "big-arm"]


def test_scanners_are_installed_before_credentials_are_there() -> None:
    steps = [step["name"] for step in read(github_workflow(FULL, PINS))["jobs"]["release"]["steps"]]
    assert steps.index("Set up the release") < steps.index("Log in to ghcr.io")
    script = read(gitlab_pipeline(FULL))["release"]["script"]
    assert script[:2] == ["./get-scanner.sh", "true"]


def test_a_release_is_never_cut_short() -> None:
    document = read(github_workflow(FULL, PINS))
    assert document["concurrency"]["cancel-in-progress"] == (
        "${{ github.event_name == 'pull_request' }}"
    )
    pipeline = read(gitlab_pipeline(FULL))
    assert pipeline["release"]["interruptible"] is False
    assert pipeline["release"]["resource_group"]


ENVIRONMENTS = {"dev": "release", "staging": "deploy-dev", "prod.eu": "deploy-staging"}


@pytest.mark.parametrize("write", [lambda one: github_workflow(one, PINS), gitlab_pipeline])
def test_environments_are_jobs_after_the_release_and_each_other(
    write: Callable[[Workflow], str],
) -> None:
    document = read(write(STAGED))
    jobs = document.get("jobs", document)
    for name, needed in ENVIRONMENTS.items():
        job = jobs[f"deploy-{name.replace('.', '-')}"]
        place = job["environment"]
        assert (place if isinstance(place, str) else place["name"]) == name
        assert job["needs"] in (needed, [needed])
        script = str(job)
        verb = "deploy --env dev" if name == "dev" else f"promote --env {name}"
        assert f"shipline {verb}" in script
        assert "GITOPS_TOKEN" in script and "COSIGN" not in script
        assert ("approve --env" in script) == (name == "prod.eu")
        assert ("CD_TOKEN" in str(job.get("steps"))) == (name == "prod.eu" and "jobs" in document)
    assert "--until publish" in str(jobs["release"]) and "GITOPS_TOKEN" not in str(jobs["release"])
    assert jobs["deploy-staging"]["environment"]["url"] == "https://staging.example/healthz"


def test_a_pull_request_never_comes_to_an_environment() -> None:
    for name, job in read(github_workflow(STAGED, PINS))["jobs"].items():
        if name.startswith("deploy-"):
            assert job["if"].startswith("github.event_name != 'pull_request' && (")
            assert set(job["permissions"].values()) == {"read"}
    for name, job in read(gitlab_pipeline(STAGED)).items():
        if name.startswith("deploy-"):  # the pipeline of a merge request has neither variable
            refs = [rule["if"] for rule in job["rules"]]
            assert all(ref.startswith(("$CI_COMMIT_TAG", "$CI_COMMIT_BRANCH")) for ref in refs)


def test_only_the_branches_of_an_environment_start_its_job() -> None:
    jobs = read(github_workflow(STAGED, PINS))["jobs"]
    assert "github.event.repository.default_branch" in jobs["deploy-dev"]["if"]
    assert (
        "github.ref_name == 'main' || startsWith(github.ref_name, 'release/')"
        in (jobs["deploy-prod-eu"]["if"])
    )
    rules = read(gitlab_pipeline(STAGED))
    assert rules["deploy-dev"]["rules"][1] == {"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"}
    assert {"if": "$CI_COMMIT_BRANCH =~ /^main$/", "when": "manual"} in (
        rules["deploy-prod-eu"]["rules"]
    )
    environments = {"dev": replace(STAGED.environments["dev"], branches=("a*b",))}
    with pytest.raises(ConfigError, match="not a condition of GitHub"):
        github_workflow(replace(STAGED, environments=environments), PINS)


def test_git_opens_the_gitops_repository_with_the_token_of_the_environment(tmp_path: Path) -> None:
    """git itself is asked, also for the addresses that SSH would take."""
    jobs = read(github_workflow(STAGED, PINS))["jobs"]
    for name in ENVIRONMENTS:
        repository = STAGED.environments[name].gitops.repository
        variables = jobs[f"deploy-{name.replace('.', '-')}"]["steps"][-1]["env"]
        environ = {key: value for key, value in variables.items() if key.startswith("GIT_CONFIG")}
        environ |= {"GITOPS_TOKEN": "s3cret", "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        environ |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}

        def git(*words: str, given: str = "", environ: dict[str, str] = environ) -> str:
            command = ("git", *words)
            done = subprocess.run(
                command, env=environ, input=given, cwd=tmp_path, capture_output=True, text=True
            )
            return done.stdout

        url = git("ls-remote", "--get-url", repository).strip()
        assert url.startswith("https://git.example")
        answer = git("credential", "fill", given=f"url={url}\n\n")
        assert "password=s3cret" in answer.splitlines()


@pytest.mark.parametrize("write", [lambda one: github_workflow(one, PINS), gitlab_pipeline])
def test_checks_find_the_project_set_up_before_credentials_are_there(
    write: Callable[[Workflow], str],
) -> None:
    document = read(write(STAGED))
    jobs = document.get("jobs", document)
    assert "npm ci" in str(jobs["deploy-staging"]) and "npm ci" not in str(jobs["deploy-dev"])
    if "jobs" not in document:
        assert jobs["deploy-staging"]["image"].startswith("node:")
        return
    sequence = jobs["deploy-staging"]["steps"]
    setup = next(at for at, step in enumerate(sequence) if step.get("run") == "npm ci")
    assert not any("secrets." in str(step) for step in sequence[:setup])
    environ = sequence[-1]["env"]
    assert environ["SMOKE_TOKEN"] == "${{ secrets.SMOKE_TOKEN }}" and "CI_*" not in environ


def test_a_path_is_no_repository_for_a_job() -> None:
    dev = STAGED.environments["dev"]
    local = replace(dev, gitops=replace(dev.gitops, repository="../deploy.git"))
    for write in (lambda one: github_workflow(one, PINS), gitlab_pipeline):
        with pytest.raises(ConfigError, match=r"environments.dev.gitops.repository: jobs do not"):
            write(replace(STAGED, environments={"dev": local}))


def test_a_run_that_waits_for_reviewers_holds_up_no_other() -> None:
    document = read(github_workflow(STAGED, PINS))
    assert "github.run_id" in document["concurrency"]["group"]
    for name, job in document["jobs"].items():
        if name == "release" or name.startswith("deploy-"):
            assert job["concurrency"]["cancel-in-progress"] is False
    groups = [
        job["resource_group"]
        for name, job in read(gitlab_pipeline(STAGED)).items()
        if name.startswith("deploy-")
    ]
    assert groups == [*ENVIRONMENTS]


def test_a_job_may_take_as_long_as_it_waits() -> None:
    jobs = read(github_workflow(STAGED, PINS))["jobs"]
    assert [jobs[f"deploy-{name}"]["timeout-minutes"] for name in ("dev", "staging")] == [40, 55]


def test_words_reach_the_shell_as_they_are() -> None:
    for word in ('A=$(id) `id` "q" \\ $HOME', "plain", "", "a'b", "tab\tline\nend"):
        echoed = subprocess.run(
            ["sh", "-c", f"printf %s {quoted(word)}"], capture_output=True, text=True, check=True
        )
        assert echoed.stdout == word


def test_an_unread_variable_is_read_by_the_job() -> None:
    word = f"VERSION={Unread()['RELEASE']}$"
    done = subprocess.run(
        ["sh", "-c", f"printf %s {quoted(word)}"],
        env={"RELEASE": "1 2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "VERSION=1 2$"


def test_branch_patterns_become_expressions() -> None:
    rules = read(gitlab_pipeline(FULL))["workflow"]["rules"]
    assert {"if": "$CI_COMMIT_BRANCH =~ /^feature\\/.*$/"} in rules
    assert {"if": "$CI_COMMIT_TAG =~ /^v[^\\/]*$/"} in rules or {
        "if": "$CI_COMMIT_TAG =~ /^v[^/]*$/"
    } in rules
