"""`shipline ci`: write, check and refresh the files of CI systems."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from shipline.cli.config import FILE
from shipline.cli.failures import Settings
from shipline.cli.results import write_whole
from shipline.cli.workflows import own_requirement
from shipline.cli.workflows import workflow as read_workflow
from shipline.deliver.ci import (
    LEFT_OUT,
    Pins,
    State,
    Workflow,
    buildx,
    freshness,
    github,
    gitlab,
    kind_of,
    left_out,
)
from shipline.errors import ConfigError, UsageError

Writer = Callable[[Workflow, Path], str]


def _pins(workflow: Workflow, root: Path) -> Pins:
    return Pins.load(root / workflow.section.pins if workflow.section.pins else None)


_WRITERS: dict[str, tuple[str, Writer]] = {
    "github": (
        ".github/workflows/shipline.yml",
        lambda workflow, root: github(workflow, _pins(workflow, root)),
    ),
    "github --style buildx": (
        ".github/workflows/docker.yml",
        lambda workflow, root: buildx(workflow, _pins(workflow, root)),
    ),
    "gitlab": (".gitlab-ci.yml", lambda workflow, _: gitlab(workflow)),
}
"""Where each kind of file is kept, and who writes it."""

_OUTPUT = click.option("-o", "--output", metavar="PATH", help="Write to this path instead.")
_STDOUT = click.option("--stdout", is_flag=True, help="Print the file, and write nothing.")
_FORCE = click.option("--force", is_flag=True, help="Replace a file that was written by hand.")


@click.group("ci")
def group() -> None:
    """Write the files of CI systems, and keep them up to date."""


@group.command("github")
@FILE
@click.option(
    "--style",
    type=click.Choice(["shipline", "buildx"]),
    default="shipline",
    show_default=True,
    help="buildx: the plain workflow with Docker's own actions.",
)
@_OUTPUT
@_STDOUT
@_FORCE
def github_command(
    path: Path | None, style: str, output: str | None, stdout: bool, force: bool
) -> None:
    """Write a workflow of GitHub Actions."""
    kind = "github" if style == "shipline" else f"github --style {style}"
    _write(kind, path, output, stdout=stdout, force=force)


@group.command("gitlab")
@FILE
@_OUTPUT
@_STDOUT
@_FORCE
def gitlab_command(path: Path | None, output: str | None, stdout: bool, force: bool) -> None:
    """Write a pipeline of GitLab CI."""
    _write("gitlab", path, output, stdout=stdout, force=force)


@group.command("check")
@FILE
@click.argument("files", nargs=-1, metavar="[FILE...]")
def check(path: Path | None, files: tuple[str, ...]) -> None:
    """Fail where a generated file is not what would be written now; prints the difference."""
    stale = []
    for place, wanted in _generated(path, files):
        found = freshness(_text(place), wanted, os.path.relpath(place))
        if found.state is not State.FRESH:
            stale.append(os.path.relpath(place))
            click.echo(found.diff, nl=False)
        else:
            click.echo(f"{os.path.relpath(place)}: up to date", err=True)
    if stale:
        raise ConfigError(f"out of date: {', '.join(stale)}", hint="run `shipline ci update`")


@group.command("update")
@FILE
@click.option("--force", is_flag=True, help="Also files that were edited by hand.")
@click.argument("files", nargs=-1, metavar="[FILE...]")
def update(path: Path | None, force: bool, files: tuple[str, ...]) -> None:
    """Write the generated files again: with this configuration, and today's pins of actions."""
    for place, wanted in _generated(path, files):
        _replace(place, wanted, force=force)


@group.command("action-build", hidden=True)
@click.pass_obj
def action_build(settings: Settings) -> None:
    """What the action of this repository runs: `shipline build` from the inputs of a step."""
    from shipline.cli.action import run_action

    run_action(settings, os.environ)


def _write(kind: str, path: Path | None, output: str | None, *, stdout: bool, force: bool) -> None:
    workflow, root = _workflow(path)
    default, writer = _WRITERS[kind]
    text = writer(workflow, root)
    if stdout:
        sys.stdout.write(text)
        return
    place = Path(output) if output else _top(root) / default
    _replace(place, text, force=force)
    _warn(workflow, kind)


def _warn(workflow: Workflow, kind: str) -> None:
    """Say what will not work or is not there, before CI does."""
    if kind.endswith("buildx"):
        click.echo(LEFT_OUT, err=True)
        for one in left_out(workflow):
            click.echo(f"- {one}", err=True)
    elif not workflow.section.install and not own_requirement():
        click.echo(
            f"warning: the jobs install {workflow.install} from their package index, because this"
            " shipline was installed from files that they cannot reach. If the index does not have"
            " it, set ci.install in shipline.yaml: a git URL with a commit, or a wheel.",
            err=True,
        )


def _workflow(path: Path | None) -> tuple[Workflow, Path]:
    found, root = read_workflow(path, Path.cwd())
    if _top(root) != root:
        raise UsageError(
            f"{os.path.relpath(root)} is not the top of the repository, where CI jobs begin",
            hint="keep shipline.yaml at the top, with build.context and build.file below",
        )
    return found, root


def _generated(path: Path | None, files: tuple[str, ...]) -> list[tuple[Path, str]]:
    """The generated files, each with what it should be. Raises ConfigError where there is none."""
    workflow, root = _workflow(path)
    places = [Path(file) for file in files] or [_top(root) / one for one, _ in _WRITERS.values()]
    kinds = [(place, kind_of(_text(place) or "")) for place in places]
    found = [
        (place, _WRITERS[kind][1](workflow, root)) for place, kind in kinds if kind in _WRITERS
    ]
    foreign = [str(place) for place, kind in kinds if kind not in _WRITERS]
    if foreign and files:
        raise ConfigError(f"not generated by shipline: {', '.join(foreign)}")
    if not found:
        raise ConfigError(
            "there is no generated file", hint="run `shipline ci github` or `shipline ci gitlab`"
        )
    return found


def _replace(place: Path, text: str, *, force: bool) -> None:
    shown = os.path.relpath(place)
    state = freshness(_text(place), text, shown).state
    if state is State.FRESH:
        click.echo(f"{shown} is up to date", err=True)
        return
    if state in (State.FOREIGN, State.EDITED) and not force:
        whose = "was written" if state is State.FOREIGN else "has been changed"
        raise UsageError(f"{shown} {whose} by a person", hint="--force replaces it")
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, text)
    click.echo(f"wrote {shown}", err=True)


def _text(place: Path) -> str | None:
    try:
        return place.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {place}: {error}") from error


def _top(root: Path) -> Path:
    """The top of the repository, where CI systems look; the project itself outside of one."""
    for directory in (root, *root.parents):
        if (directory / ".git").exists():
            return directory
    return root
