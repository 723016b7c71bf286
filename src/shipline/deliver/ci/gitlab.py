"""A pipeline of GitLab CI: tests, one native build per platform, one release."""

from __future__ import annotations

from typing import Any

from shipline.deliver.ci import scripts
from shipline.deliver.ci.document import Comment, Inline, headed, render
from shipline.deliver.ci.stage_jobs import TOKEN, StageJob, git_variables, stages
from shipline.deliver.ci.workflow import STATE, Login, Workflow, packages, slug
from shipline.deliver.project import Toolchain
from shipline.errors import ConfigError

Node = dict[Any, Any]
_IMAGE = "python:3.13-slim-trixie"
_PLACE = ".shipline-state"
_VENV = "$CI_PROJECT_DIR/.shipline-venv"
_CODE_QUALITY = "gl-code-quality-report.json"
_MERGE_REQUEST = '$CI_PIPELINE_SOURCE == "merge_request_event"'
_TAGS = {"amd64": "saas-linux-small-amd64", "arm64": "saas-linux-small-arm64"}
_COBERTURA = ("coverage.xml", "cobertura.xml", "cobertura-coverage.xml")


def gitlab_pipeline(workflow: Workflow) -> str:
    """The text of `.gitlab-ci.yml`."""
    jobs = {
        "test": _test(workflow) if workflow.tests else None,
        "try": _try(workflow),
        "build": _build(workflow),
        "release": _release(workflow),
        **{stage.job: _stage(stage, workflow) for stage in stages(workflow)},
    }
    names = [*(("test",) if workflow.tests else ()), "build", "release"]
    names += ["deploy"] if workflow.environments else []
    document: Node = {
        "stages": Inline(names),
        Comment("\nBranches, tags and merge requests, without duplicate pipelines."): None,
        "workflow": {"rules": _rules(workflow)},
        Comment(): None,
        "variables": {
            "SHIPLINE": workflow.install,
            "SHIPLINE_HOME": f"$CI_PROJECT_DIR/{_PLACE}",
            "GIT_DEPTH": "0",
        },
        Comment(): None,
        "default": {
            "image": _IMAGE,
            "interruptible": True,
            "timeout": f"{workflow.section.timeout_minutes} minutes",
            "retry": {"max": 2, "when": ["runner_system_failure", "stuck_or_timeout_failure"]},
        },
    }
    for name, job in jobs.items():
        if job is not None:
            document |= {Comment(): None, name: job}
    return headed(render(document), "gitlab")


def _rules(workflow: Workflow) -> list[Node]:
    refs = [f"$CI_COMMIT_TAG =~ {_expression(pattern)}" for pattern in workflow.section.tags]
    refs += [
        f"$CI_COMMIT_BRANCH =~ {_expression(pattern)}" for pattern in workflow.section.branches
    ]
    return [{"if": _MERGE_REQUEST}, *({"if": ref} for ref in refs)]


def _expression(glob: str) -> str:
    """A GitHub pattern as a regular expression for GitLab."""
    text = "".join(
        {"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, _escaped(part)) for part in _parts(glob)
    )
    return f"/^{text}$/"


def _parts(glob: str) -> list[str]:
    parts, remaining = [], glob
    while remaining:
        size = 2 if remaining.startswith("**") else 1
        parts.append(remaining[:size])
        remaining = remaining[size:]
    return parts


def _escaped(character: str) -> str:
    return character if character.isalnum() or character in "_-" else f"\\{character}"


def _install(*packages_to_install: str) -> list[str]:
    names = " ".join(sorted({"git", "python3-venv", *packages_to_install}))
    return [
        "apt-get update -qq",
        f"apt-get install -y -qq --no-install-recommends {names} > /dev/null",
        scripts.install(_VENV),
        f'export PATH="{_VENV}/programs:$PATH"',
        "printf '/%s\\n' .shipline-venv .shipline-state >> .git/info/exclude",
    ]


def _test(workflow: Workflow) -> Node:
    job: Node = {"stage": "test"}
    if workflow.toolchain is not None:
        job["image"] = _toolchain_image(workflow.toolchain)
    job |= {"before_script": _install(), "script": [*workflow.setup, scripts.test(workflow)]}
    if workflow.reports:
        job["artifacts"] = {
            "when": "always",
            "expire_in": "1 week",
            "paths": list(workflow.reports),
            **_shown(workflow),
        }
    if workflow.findings:
        program = f"{_VENV}/programs/shipline"
        job["after_script"] = [scripts.code_quality(program, workflow.findings, _CODE_QUALITY)]
    return job


def _toolchain_image(toolchain: Toolchain) -> str:
    name = {"node": "node", "python": "python", "go": "golang"}[toolchain.kind]
    return f"{name}:{toolchain.version}-bookworm"


def _shown(workflow: Workflow) -> Node:
    """Reports in the formats that merge requests show."""
    reports = workflow.reports
    shown: Node = {}
    if junit := [path for path in reports if "junit" in path.lower() and path.endswith(".xml")]:
        shown["junit"] = junit
    if cobertura := [path for path in reports if path.rpartition("/")[2] in _COBERTURA]:
        shown["coverage_report"] = {"coverage_format": "cobertura", "path": cobertura[0]}
    if workflow.findings:
        shown["codequality"] = _CODE_QUALITY
    return {"reports": shown} if shown else {}


def _matrix(workflow: Workflow, rule: str, commands: list[str]) -> Node:
    """One job per platform, on a native runner."""
    names = {name for platform in workflow.platforms for name in packages(platform)}
    return {
        "stage": "build",
        "needs": [],
        "rules": [{"if": rule}],
        "parallel": {
            "matrix": [
                {
                    "PLATFORM": platform,
                    "NAME": slug(platform),
                    "RUNNER": _runner(workflow, platform),
                }
                for platform in workflow.platforms
            ]
        },
        "tags": ["$RUNNER"],
        "cache": {"key": "shipline-$NAME", "paths": [f"{_PLACE}/{path}" for path in STATE]},
        "before_script": _install(*names),
        "script": commands,
    }


def _runner(workflow: Workflow, platform: str) -> str:
    machine = platform.split("/")[1]
    tags = workflow.section.runners.get(platform, _TAGS.get(machine, _TAGS["amd64"]))
    if isinstance(tags, str):
        return tags
    if len(tags) == 1:
        return tags[0]
    raise ConfigError(
        f"ci.runners.{platform}: GitLab jobs select a runner by one tag, not {len(tags)}",
        hint="give these runners a common tag, and use that",
    )


def _try(workflow: Workflow) -> Node:
    return _matrix(workflow, _MERGE_REQUEST, [scripts.attempt(workflow)])


def _build(workflow: Workflow) -> Node:
    job = _matrix(
        workflow,
        _release_rule(),
        [
            *_logins(workflow, workflow.logins[: workflow.registries]),
            scripts.build("built/$NAME.json"),
        ],
    )
    return job | {
        "variables": _passphrase(workflow),
        "environment": {"name": workflow.section.environment, "action": "prepare"},
        **_identity(workflow),
        "artifacts": {"paths": ["built/"], "expire_in": "1 week"},
    }


def _release_rule() -> str:
    return '$CI_PIPELINE_SOURCE != "merge_request_event"'


def _login_variables(login: Login) -> tuple[str, str]:
    """The job's own credentials for the registry of GitLab."""
    if login.host == "registry.gitlab.com":
        return "CI_REGISTRY_USER", "CI_REGISTRY_PASSWORD"
    return login.username, login.password


def _logins(workflow: Workflow, logins: tuple[Login, ...]) -> list[str]:
    if workflow.section.login:
        return [scripts.own_login(workflow)]
    return [scripts.login(login.host, *_login_variables(login)) for login in logins]


def _passphrase(workflow: Workflow) -> Node:
    """The passphrase for the encrypted credentials of a job."""
    if not workflow.logins or workflow.section.login:
        return {}
    return {"SHIPLINE_PASSPHRASE": f"${_login_variables(workflow.logins[0])[1]}"}


def _release(workflow: Workflow) -> Node:
    needs = ["build", *(("test",) if workflow.tests else ())]
    job: Node = {
        "stage": "release",
        "needs": [{"job": name, "artifacts": True} for name in needs],
        "rules": [{"if": _release_rule()}],
        "interruptible": False,
        Comment("One release per branch at a time."): None,
        "resource_group": "release-$CI_COMMIT_REF_SLUG",
        "environment": {"name": workflow.section.environment},
        "variables": {"GIT_STRATEGY": "clone", **_passphrase(workflow)},
    }
    commands = [
        *workflow.section.release_setup,
        *_logins(workflow, workflow.logins),
        scripts.release(workflow, "built/*.json"),
    ]
    return job | {**_identity(workflow), "before_script": _install(), "script": commands}


def _stage(stage: StageJob, workflow: Workflow) -> Node:
    """The job of an environment, which has its secrets; a person starts it where one must."""
    section = stage.section
    how = {"when": "manual"} if stage.by_hand else {}
    settings = {
        name: {"value": value, "expand": False} if "$" in value else value
        for name, value in git_variables(stage.git_settings).items()
    }
    proposes = {"GITLAB_TOKEN": f"${TOKEN}"} if section.gitops.pull_request else {}
    job: Node = {
        "stage": "deploy",
        "needs": [stage.after],
        "rules": [{"if": ref, **how} for ref in _refs(stage)],
        "interruptible": False,
        Comment("One deployment at a time."): None,
        "resource_group": stage.name,
        "environment": {"name": stage.name, **({"url": stage.url} if stage.url else {})},
        "timeout": f"{stage.minutes(workflow.section.timeout_minutes)} minutes",
        "variables": {"GIT_STRATEGY": "clone", **_passphrase(workflow), **settings, **proposes},
    }
    if section.checks and workflow.toolchain is not None:
        job["image"] = _toolchain_image(workflow.toolchain)
    commands = [
        *(workflow.setup if section.checks else ()),
        *_logins(workflow, workflow.logins[: workflow.registries]),
        *([scripts.approvals(stage)] if section.approvals is not None else []),
        scripts.stage(stage),
    ]
    return job | {**_identity(workflow), "before_script": _install(), "script": commands}


def _refs(stage: StageJob) -> list[str]:
    """The refs that are deployed: git tags, and the default branch or those that are named."""
    named = [f"$CI_COMMIT_BRANCH =~ {_expression(name)}" for name in stage.section.branches]
    return ["$CI_COMMIT_TAG", *(named or ["$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"])]


def _identity(workflow: Workflow) -> Node:
    """A short-lived identity token of the job (OIDC)."""
    audience = workflow.section.oidc_audience
    return {"id_tokens": {"SHIPLINE_ID_TOKEN": {"aud": audience}}} if audience else {}
