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


def buildx(workflow: Workflow, pins: Pins) -> str:
    """The text of a workflow that pushes each commit of the first branch, named after it. What it
    leaves out of shipline.yaml is told at its top.
    """
    section = workflow.section
    told = "".join(f"\n- {one}" for one in left_out(workflow))
    document: Node = {
        **({Comment(f"{LEFT_OUT}{told}\n"): None} if told else {}),
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


LEFT_OUT = "Docker's own actions build and push. Left out of what shipline.yaml asks for:"


def left_out(workflow: Workflow) -> tuple[str, ...]:
    """What shipline.yaml asks for and this workflow does not do."""
    flags = sorted({one for one in workflow.build if one.startswith("--")} - {*_INPUTS})
    others = [login.host for login in workflow.logins[1:]]
    found = (
        ("steps: " + ", ".join(workflow.tests), workflow.tests),
        *((one, True) for one in workflow.without),
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
    ours = login.host == "ghcr.io"
    return {
        "name": f"Log in to {login.host}",
        "uses": pins.uses("docker/login-action"),
        "with": {
            "registry": login.host,
            "username": "${{ github.actor }}" if ours else secret(login.username),
            "password": secret("GITHUB_TOKEN" if ours else login.password),
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
    own = name.startswith("GITHUB_")
    return f"${{{{ github.{name[7:].lower()} }}}}" if own else f"${{{{ vars.{name} }}}}"
