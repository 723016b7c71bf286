"""Workflows of GitHub Actions: one that runs shipline, and one with Docker's own actions."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from shipline.deliver.ci import scripts, steps
from shipline.deliver.ci.document import Comment, Inline, Noted, headed, render
from shipline.deliver.ci.stage_jobs import TOKEN, StageJob, credential_helper, git_variables, stages
from shipline.deliver.ci.steps import Pins, checkout, secret
from shipline.deliver.ci.workflow import Login, Workflow, native_runner, slug, with_variables
from shipline.errors import ConfigError

Node = dict[Any, Any]
_RUNNER = "ubuntu-24.04"
_PULL_REQUEST = "github.event_name == 'pull_request'"
_NO_PULL_REQUEST = "github.event_name != 'pull_request'"
_ORDER = (
    *("name", "needs", "if", "runs-on", "environment", "timeout-minutes"),
    *("permissions", "concurrency", "strategy", "steps"),
)


def github_workflow(workflow: Workflow, pins: Pins) -> str:
    """The text of `.github/workflows/shipline.yml`."""
    jobs = {
        "test": _test(workflow, pins) if workflow.tests else None,
        "findings": _findings(workflow, pins) if workflow.tests and workflow.findings else None,
        "try": _try(workflow, pins),
        "build": _build(workflow, pins),
        "release": _release(workflow, pins),
        **{stage.job: _stage(stage, workflow, pins) for stage in stages(workflow)},
    }
    document = {
        "name": "shipline",
        Comment(): None,
        "on": triggers(workflow),
        Comment("\nEach job has only the permissions that it names."): None,
        "permissions": {},
        Comment(
            "\nA new push cancels the run of a pull request; a release is never cancelled."
        ): None,
        "concurrency": _concurrency(workflow),
        Comment(): None,
        "env": {"SHIPLINE": workflow.install},
        Comment(): None,
        "jobs": spaced({name: job for name, job in jobs.items() if job is not None}),
    }
    return headed(render(document), "github")


def triggers(workflow: Workflow) -> Node:
    """The triggers: pushes that are released, pull requests, and manual runs."""
    section = workflow.section
    push = {"branches": Inline(section.branches), "tags": Inline(section.tags)}
    return {
        "push": {key: value for key, value in push.items() if value},
        "pull_request": None,
        "workflow_dispatch": None,
    }


def _concurrency(workflow: Workflow) -> Node:
    """One run per pull request or ref. With environments the release takes turns by itself: a run
    that waits for reviewers holds up no other.
    """
    other = "run_id" if workflow.environments else "ref"
    return {
        "group": f"shipline-${{{{ github.event.pull_request.number || github.{other} }}}}",
        "cancel-in-progress": f"${{{{ {_PULL_REQUEST} }}}}",
    }


def spaced(jobs: Node) -> Node:
    """The jobs with an empty line between them."""
    document: Node = {}
    for name, job in jobs.items():
        if document:
            document[Comment()] = None
        document[name] = job
    return document


def _job(workflow: Workflow, name: str, **fields: Any) -> Node:
    job = {
        "name": name,
        "runs-on": _RUNNER,
        "timeout-minutes": workflow.section.timeout_minutes,
        "permissions": {"contents": Noted("read", "check out")},
        **fields,
    }
    return {key: job[key] for key in _ORDER if key in job}


def _test(workflow: Workflow, pins: Pins) -> Node:
    sequence = [steps.checkout(pins), *steps.toolchain(workflow, pins), steps.install()]
    sequence += [{"name": "Set up the project", "run": line} for line in workflow.setup]
    sequence.append({"name": "Test", "run": scripts.test(workflow)})
    if workflow.reports:
        sequence += [
            {
                "name": "Pack the reports",
                "if": "${{ !cancelled() }}",
                "run": scripts.pack(workflow),
            },
            steps.keep("reports", "reports.tar", pins, always=True),
        ]
    return _job(workflow, "Test", steps=sequence)


def _findings(workflow: Workflow, pins: Pins) -> Node:
    """Upload findings: a separate job, because tests must not have this permission."""
    upload = [
        {
            "name": f"Upload {path}",
            "uses": pins.uses("github/codeql-action", "upload-sarif"),
            "with": {"sarif_file": path, "category": path},
        }
        for path in dict.fromkeys(map(_file_or_directory, workflow.findings))
    ]
    inside = "github.event.pull_request.head.repo.full_name == github.repository"
    sequence = [
        steps.checkout(pins, history=False),
        steps.fetch("reports", pins),
        steps.unpack(),
        *upload,
    ]
    permissions = {
        "actions": Noted("read", "reads the run, in a private repository"),
        "contents": Noted("read", "check out"),
        "security-events": Noted("write", "show findings"),
    }
    condition = f"${{{{ !cancelled() && (github.event_name != 'pull_request' || {inside}) }}}}"
    fields = {"needs": "test", "if": condition, "permissions": permissions}
    return _job(workflow, "Findings", **fields, steps=sequence)


def _file_or_directory(path: str) -> str:
    """The input of upload-sarif: a file, or the directory of a pattern."""
    return path if "*" not in path else path.partition("*")[0].rpartition("/")[0] or "."


def _machines(workflow: Workflow) -> Node:
    machines = [
        {"platform": platform, "runner": _runner(workflow, platform), "name": slug(platform)}
        for platform in workflow.platforms
    ]
    return {"fail-fast": True, "matrix": {"include": machines}}


def _runner(workflow: Workflow, platform: str) -> Inline | str:
    runner = workflow.section.runners.get(platform, native_runner(platform) or _RUNNER)
    return runner if isinstance(runner, str) else Inline(runner)


def _matrix_job(workflow: Workflow, name: str, **fields: Any) -> Node:
    """One job per platform, on a native runner."""
    runner = {"runs-on": "${{ matrix.runner }}", "strategy": _machines(workflow)}
    return _job(workflow, f"{name} ${{{{ matrix.platform }}}}", **runner, **fields)


def _try(workflow: Workflow, pins: Pins) -> Node:
    """The build of a pull request: no secrets, no push."""
    build = scripts.attempt(workflow)
    variables = {"PLATFORM": "${{ matrix.platform }}", **steps.cache_variables(workflow)}
    build_step = {"name": "Build", "env": variables, "run": build}
    sequence = [
        steps.checkout(pins),
        steps.prepare(workflow),
        steps.install(),
        steps.cache(pins, save=False),
        *steps.cache_token(workflow, pins),
        build_step,
    ]
    return _matrix_job(workflow, "Try", **{"if": _PULL_REQUEST}, steps=sequence)


def _build(workflow: Workflow, pins: Pins) -> Node:
    variables = {
        "NAME": "${{ matrix.name }}",
        "PLATFORM": "${{ matrix.platform }}",
        **steps.cache_variables(workflow),
        **steps.passphrase(workflow),
        **{name: steps.secret(name) for name in (*workflow.variables, *workflow.section.secrets)},
    }
    script = scripts.build("built/$NAME.json")
    sequence = [
        steps.checkout(pins),
        steps.prepare(workflow),
        steps.install(),
        steps.cache(pins, save=False),
        *steps.cache_token(workflow, pins),
        *steps.logins(workflow, workflow.logins[: workflow.registries]),
        {"name": "Build and push by digest", "env": variables, "run": script},
        steps.cache(pins, save=True),
        steps.keep("built-${{ matrix.name }}", "built/*.json", pins),
    ]
    guard = _guard(workflow, "read", "check out")
    return _matrix_job(workflow, "Build", **{"if": _NO_PULL_REQUEST}, **guard, steps=sequence)


def _guard(workflow: Workflow, contents: str, reason: str) -> Node:
    """The environment with the secrets, and the permissions that the registry needs."""
    permissions = {"contents": Noted(contents, reason)}
    if workflow.section.oidc_audience:
        permissions["id-token"] = Noted("write", "a short-lived identity token for the registry")
    if any(login.host == "ghcr.io" for login in workflow.logins):
        permissions["packages"] = Noted("write", "push the image")
    return {"environment": workflow.section.environment, "permissions": permissions}


def _release(workflow: Workflow, pins: Pins) -> Node:
    reports = workflow.tests and workflow.reports
    fetched = [steps.fetch("reports", pins), steps.unpack()]
    sequence = [
        steps.checkout(pins),
        steps.install(),
        *(fetched if reports else []),
        steps.fetch("built-*", pins, path="built", **{"merge-multiple": True}),
        *steps.release_setup(workflow),
        *steps.logins(workflow, workflow.logins),
        {
            "name": "Judge, sign and publish",
            "env": _release_variables(workflow),
            "run": scripts.release(workflow, "built/*.json") + "\n",
        },
    ]
    needs = Inline(["test", "build"] if workflow.tests else ["build"])
    guard = _guard(workflow, "write", "push the git tag of the version")
    fields = {"needs": needs, "if": _NO_PULL_REQUEST, **guard}
    if workflow.environments:
        fields["concurrency"] = _in_turn("release-${{ github.ref }}")
    return _job(workflow, "Release", **fields, steps=sequence)


def _release_variables(workflow: Workflow) -> Node:
    variables = steps.passphrase(workflow)
    if workflow.signing is not None:
        names = (workflow.signing.secret, "COSIGN_PASSWORD")
        variables |= {name: steps.secret(name) for name in names}
    helper = credential_helper("${{ github.server_url }}", "GIT_TOKEN")
    return variables | git_variables(helper) | {"GIT_TOKEN": steps.secret("GITHUB_TOKEN")}


def _stage(stage: StageJob, workflow: Workflow, pins: Pins) -> Node:
    """The job of an environment, which has its secrets and asks its reviewers."""
    section = stage.section
    access = {
        **steps.passphrase(workflow),
        **git_variables(stage.git_settings),
        TOKEN: secret(TOKEN),
    }
    variables = {
        **access,
        **{name: secret(name) for name in stage.secrets},
        **({"GITHUB_TOKEN": secret(TOKEN)} if section.gitops.pull_request else {}),
        **({"KUBECONFIG": "${{ runner.temp }}/kubeconfig"} if stage.kubeconfig else {}),
    }
    setup = [
        *steps.toolchain(workflow, pins),
        *({"name": "Set up the project", "run": line} for line in workflow.setup),
    ]
    sequence = [
        steps.checkout(pins),
        *(setup if section.checks else []),
        steps.install(),
        *(_kubeconfig() if stage.kubeconfig else []),
        *steps.logins(workflow, workflow.logins[: workflow.registries]),
    ]
    if section.approvals is not None:
        asked = {**access, "GITHUB_TOKEN": secret("GITHUB_TOKEN")}
        run = scripts.approvals(stage)
        sequence.append({"name": "Record the approvals of this job", "env": asked, "run": run})
    shown = f"{'Promote' if section.after else 'Deploy'} to {stage.name}"
    sequence.append({"name": shown, "env": variables, "run": scripts.stage(stage)})
    permissions = {"contents": Noted("read", "check out")}
    if section.approvals is not None:
        permissions["actions"] = Noted("read", "who approved this job")
    if workflow.section.oidc_audience:
        permissions["id-token"] = Noted("write", "a short-lived identity token for the registry")
    if any(login.host == "ghcr.io" for login in workflow.logins):
        permissions["packages"] = Noted("read", "verify the image")
    place = {"name": stage.name, "url": stage.url} if stage.url else stage.name
    job = _job(
        workflow,
        shown,
        needs=stage.after,
        **{"if": _only_for(stage)},
        environment=place,
        **{"timeout-minutes": stage.minutes(workflow.section.timeout_minutes)},
        permissions=permissions,
        concurrency=_in_turn(stage.job),
        steps=sequence,
    )
    if stage.by_hand:
        return {
            Comment(f"The reviewers of the environment {stage.name} approve this job."): None,
            **job,
        }
    return job


def _in_turn(group: str) -> Node:
    """One job of the group at a time; of those that wait, the newest."""
    return {"group": group, "cancel-in-progress": False}


def _kubeconfig() -> list[Node]:
    run = """umask 077\nprintf '%s\\n' "$KUBECONFIG_TEXT" > "$RUNNER_TEMP/kubeconfig"\n"""
    variables = {"KUBECONFIG_TEXT": secret("KUBECONFIG")}
    return [{"name": "Write the kubeconfig", "env": variables, "run": run}]


def _only_for(stage: StageJob) -> str:
    """The condition for the refs that are deployed: git tags, and the default branch or those that
    the environment names.
    """
    refs = ["github.ref_type == 'tag'"]
    for pattern in stage.section.branches or ("",):
        prefix = pattern.removesuffix("**")
        if re.search(r"[*?\[']", prefix):
            raise ConfigError(
                f"environments.{stage.name}.branches: {pattern!r} is not a condition of GitHub",
                hint="write names, or beginnings of names as release/**",
            )
        if not pattern:
            refs.append("github.ref_name == github.event.repository.default_branch")
        elif pattern == prefix:
            refs.append(f"github.ref_name == '{pattern}'")
        else:
            refs.append(f"startsWith(github.ref_name, '{prefix}')")
    return f"{_NO_PULL_REQUEST} && ({' || '.join(refs)})"


_INPUTS = {
    "--file": "file",
    "--target": "target",
    "--build-arg": "build-args",
    "--label": "labels",
    "--build-context": "build-contexts",
    "--cache-from": "cache-from",
    "--cache-to": "cache-to",
}
"""The inputs of docker/build-push-action for flags of the build."""


def buildx_workflow(workflow: Workflow, pins: Pins) -> str:
    """The text of a workflow that pushes an image for each commit of the first branch, tagged with
    the commit. Comments at its top list what it leaves out of shipline.yaml.
    """
    section = workflow.section
    omitted = "".join(f"\n- {option}" for option in unsupported_options(workflow))
    document: Node = {
        **({Comment(f"{UNSUPPORTED_OPTIONS}{omitted}\n"): None} if omitted else {}),
        "name": "docker",
        Comment(): None,
        "on": {"push": {"branches": Inline(section.branches[:1] or ("main",))}},
        Comment(): None,
        "permissions": {},
        Comment("\nOne push at a time, so that the newest commit is pushed last."): None,
        "concurrency": {"group": "docker-${{ github.ref }}", "cancel-in-progress": False},
        Comment(): None,
        "jobs": {
            "push": {
                "name": "Build and push",
                "runs-on": "ubuntu-24.04",
                "timeout-minutes": section.timeout_minutes,
                "environment": section.environment,
                "permissions": _permissions(workflow),
                "steps": _steps(workflow, pins),
            }
        },
    }
    return headed(render(document), "github --style buildx")


UNSUPPORTED_OPTIONS = "This workflow uses Docker's own actions. It leaves out of shipline.yaml:"


def unsupported_options(workflow: Workflow) -> tuple[str, ...]:
    """The settings of shipline.yaml that the workflow of Docker's actions does not support."""
    flags = sorted({flag for flag in workflow.build if flag.startswith("--")} - {*_INPUTS})
    others = [login.host for login in workflow.logins[1:]]
    options = (
        ("steps: " + ", ".join(workflow.tests), workflow.tests),
        *((option, True) for option in workflow.without),
        ("copies to " + ", ".join(others), others),
        ("build: " + ", ".join(flags), flags),
        (
            "releases of other branches and of git tags",
            workflow.section.branches[1:] or workflow.section.tags,
        ),
    )
    return tuple(text for text, there in options if there)


def _permissions(workflow: Workflow) -> Node:
    permissions = {"contents": Noted("read", "check out")}
    if any(login.host == "ghcr.io" for login in workflow.logins):
        permissions["packages"] = Noted("write", "push the image")
    return permissions


def _steps(workflow: Workflow, pins: Pins) -> list[Node]:
    return [
        checkout(pins),
        {"name": "Set up QEMU", "uses": pins.uses("docker/setup-qemu-action")},
        {"name": "Set up Buildx", "uses": pins.uses("docker/setup-buildx-action")},
        *(_login(login, pins) for login in workflow.logins[:1]),
        {
            "name": "Build and push",
            "uses": pins.uses("docker/build-push-action"),
            "with": {
                "context": workflow.context,
                **_options(workflow.build),
                "platforms": ",".join(workflow.platforms),
                "push": True,
                "tags": f"{workflow.image}:${{{{ github.sha }}}}",
            },
        },
    ]


def _login(login: Login, pins: Pins) -> Node:
    is_ghcr = login.host == "ghcr.io"
    return {
        "name": f"Log in to {login.host}",
        "uses": pins.uses("docker/login-action"),
        "with": {
            "registry": login.host,
            "username": "${{ github.actor }}" if is_ghcr else secret(login.username),
            "password": secret("GITHUB_TOKEN" if is_ghcr else login.password),
        },
    }


def _options(flags: tuple[str, ...]) -> Node:
    """The inputs of the action for flags of the build."""
    inputs: dict[str, list[str]] = {}
    for flag, value in pairwise(flags):
        if flag in _INPUTS:
            inputs.setdefault(_INPUTS[flag], []).append(with_variables(value, _expression))
    return {name: "\n".join(values) for name, values in inputs.items()}


def _expression(name: str) -> str:
    """The expression for a variable: GitHub's own, else one of the repository."""
    is_builtin = name.startswith("GITHUB_")
    return f"${{{{ github.{name[7:].lower()} }}}}" if is_builtin else f"${{{{ vars.{name} }}}}"
