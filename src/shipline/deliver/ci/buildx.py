"""The plain workflow with Docker's own actions: QEMU, Buildx, login, build, push."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from shipline.deliver.ci.document import Comment, Inline, Noted, headed, render
from shipline.deliver.ci.steps import Pins, checkout, secret
from shipline.deliver.ci.workflow import Login, Workflow, with_variables

Node = dict[Any, Any]
_INPUTS = {
    "--file": "file",
    "--target": "target",
    "--build-arg": "build-args",
    "--label": "labels",
    "--build-context": "build-contexts",
}
"""The inputs of docker/build-push-action for flags of the build."""


def buildx_workflow(workflow: Workflow, pins: Pins) -> str:
    """The text of a workflow that pushes each commit of the first branch, named after it. What it
    leaves out of shipline.yaml is told at its top.
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
        Comment("\nOne push after the other: the newest commit is pushed last."): None,
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


UNSUPPORTED_OPTIONS = (
    "Docker's own actions build and push. Left out of what shipline.yaml asks for:"
)


def unsupported_options(workflow: Workflow) -> tuple[str, ...]:
    """The settings of shipline.yaml that this workflow does not support."""
    flags = sorted({flag for flag in workflow.build if flag.startswith("--")} - {*_INPUTS})
    others = [login.host for login in workflow.logins[1:]]
    found = (
        ("steps: " + ", ".join(workflow.tests), workflow.tests),
        *((option, True) for option in workflow.without),
        ("copies to " + ", ".join(others), others),
        ("build: " + ", ".join(flags), flags),
        (
            "releases of other branches and of git tags",
            workflow.section.branches[1:] or workflow.section.tags,
        ),
    )
    return tuple(text for text, there in found if there)


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
    """The flags of the build that are inputs of the action."""
    found: dict[str, list[str]] = {}
    for flag, value in pairwise(flags):
        if flag in _INPUTS:
            found.setdefault(_INPUTS[flag], []).append(with_variables(value, _expression))
    return {name: "\n".join(values) for name, values in found.items()}


def _expression(name: str) -> str:
    """A variable: GitHub's own, else one of the repository."""
    is_builtin = name.startswith("GITHUB_")
    return f"${{{{ github.{name[7:].lower()} }}}}" if is_builtin else f"${{{{ vars.{name} }}}}"
