"""Generated files pass every linter, and hold what makes them safe."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
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
from workflows import ALL, FULL, KEYLESS, WITH_CACHE

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
