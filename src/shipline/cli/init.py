"""`shipline init`: write the first files of a project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from shipline.config import NAMES
from shipline.deliver.project import DetectedProject, detect_project, guess_image
from shipline.deliver.scaffold import (
    PLACEHOLDER,
    PLATFORMS,
    initial_config,
    initial_dockerfile,
    initial_dockerignore,
    initial_gitignore,
)
from shipline.errors import UsageError
from shipline.files import writing
from shipline.oci import Platform, Reference
from shipline.values import replace


@click.command("init")
@click.argument(
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    metavar="[DIRECTORY]",
)
@click.option(
    "--image", metavar="NAME", help="The repository to push to; by default derived from git."
)
@click.option(
    "--platform", "platforms", multiple=True, metavar="OS/ARCH", help="Platforms to build for."
)
@click.option(
    "--dockerfile/--no-dockerfile",
    "docker",
    default=None,
    help="Write a Dockerfile if there is none; by default only for known languages.",
)
@click.option("--dry-run", is_flag=True, help="Print the files instead of writing them.")
def command(
    directory: Path,
    image: str | None,
    platforms: tuple[str, ...],
    docker: bool | None,
    dry_run: bool,
) -> None:
    """Write shipline.yaml for the project in DIRECTORY, and a Dockerfile and ignore files if there
    are none. Existing files are never replaced.
    """
    project = detect_project(directory)
    files = _files(directory, project, image, _platforms(platforms), docker)
    present = [name for name in files if (directory / name).exists()]
    if set(NAMES) & {*present} and not dry_run and not (docker and len(present) < len(files)):
        raise UsageError(
            f"{directory / present[0]} already exists",
            code="file-exists",
            hint="`shipline init --dry-run` prints what a new one would contain",
        )
    for name, text in files.items():
        if dry_run:
            click.echo(f"# --- {name}\n{text}", nl=False)
        elif name not in present:
            _create(directory / name, text)
        else:
            click.echo(f"{directory / name} already exists; it was not changed", err=True)
    written = {name: text for name, text in files.items() if name not in present}
    _report(project, written)
    if written and not dry_run:
        _tell_next(project, written, in_repository=_in_repository(directory))


def _files(
    directory: Path,
    project: DetectedProject,
    image: str | None,
    platforms: tuple[str, ...],
    docker: bool | None,
) -> dict[str, str]:
    """The text of each file by name, shipline.yaml first."""
    name = Reference.parse(image).name if image else guess_image(project) or ""
    there = next((name for name in NAMES if (directory / name).exists()), NAMES[0])
    files: dict[str, str] = {}
    if docker is not False and not project.dockerfiles:
        text = initial_dockerfile(project)
        if text is not None:
            files["Dockerfile"] = text
            project = replace(project, dockerfiles=("Dockerfile",), contexts=(".",))
        elif docker:
            raise UsageError(
                "--dockerfile: the start command is unknown: there is no start script or main in"
                " package.json, no script in pyproject.toml, no main.py, no package main and no"
                " index.html",
                code="init-unknown-start",
                hint="write a Dockerfile; `shipline init` uses an existing one",
            )
    if (docker or "Dockerfile" in files) and not project.has_dockerignore:
        files[".dockerignore"] = initial_dockerignore(project)
    if (project.language or project.site) and not project.has_gitignore:
        files[".gitignore"] = initial_gitignore(project)
    written = "Dockerfile" in files
    config = initial_config(project, image=name, platforms=platforms or PLATFORMS, docker=written)
    return {there: config, **files}


def _platforms(texts: tuple[str, ...]) -> tuple[str, ...]:
    words = [word.strip() for text in texts for word in text.split(",")]
    return tuple(str(Platform.parse(word)) for word in words if word)


def _create(path: Path, text: str) -> None:
    with writing(path), path.open("x") as file:  # never replaces a file created in the meantime
        file.write(text)
    click.echo(f"wrote {path}", err=True)


def _report(project: DetectedProject, written: Mapping[str, str]) -> None:
    language = project.language
    kind = "a static site" if project.site else "no known language"
    if language:
        kind, manager = language.toolchain.title, language.manager
        kind = kind if manager == language.toolchain.kind else f"{kind} with {manager}"
    click.echo(f"{project.name}: {kind}", err=True)
    reports = language and any(check.reports for check in language.checks)
    if reports and project.has_gitignore and not project.ignores_reports:
        click.echo(
            "add `reports/` to .gitignore: a work tree with new files counts as changed", err=True
        )
    if language and not language.locked:
        click.echo(
            "there is no lock file: commit one (`npm install` writes it), or builds may differ",
            err=True,
        )
    if project.ci:
        click.echo(f"existing CI was not changed: {', '.join(project.ci)}", err=True)
    if not project.dockerfiles and "Dockerfile" not in written:
        why = "" if initial_dockerfile(project) else ", and the start command is unknown"
        click.echo(f"there is no Dockerfile{why}: write one before `shipline ship`", err=True)


def _in_repository(directory: Path) -> bool:
    return any((one / ".git").exists() for one in (directory, *directory.resolve().parents))


def _tell_next(
    project: DetectedProject, written: Mapping[str, str], *, in_repository: bool
) -> None:
    todo = PLACEHOLDER in "".join(written.values())
    start = f"set the repository in {next(iter(written))}, then " if todo else ""
    start += "" if in_repository else "`git init`, "
    commit = f"git add {' '.join(written)} && git commit -m 'build: ship with shipline'"
    ci = "" if project.ci else ", then `shipline ci github`"
    click.echo(f"next: {start}`{commit}`, `shipline ship --plan`, `shipline ship`{ci}", err=True)
