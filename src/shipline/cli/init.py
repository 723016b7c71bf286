"""`shipline init`: write the files that a project needs to be shipped."""

from __future__ import annotations

from pathlib import Path

import click

from shipline.config import NAMES
from shipline.deliver.project import DetectedProject, detect_project, guess_image
from shipline.deliver.scaffold import (
    PLATFORMS,
    initial_config,
    initial_dockerfile,
    initial_dockerignore,
    initial_gitignore,
)
from shipline.errors import UsageError
from shipline.oci import Platform, Reference
from shipline.values import replace


@click.command("init")
@click.argument(
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    metavar="[DIRECTORY]",
)
@click.option("--image", metavar="NAME", help="The image to push to; by default guessed from git.")
@click.option("--platform", "platforms", multiple=True, metavar="OS/ARCH", help="A platform.")
@click.option(
    "--dockerfile/--no-dockerfile",
    "docker",
    default=None,
    help="Write a Dockerfile if there is none; by default for known languages.",
)
@click.option("--dry-run", is_flag=True, help="Print the files, and write nothing.")
def command(
    directory: Path,
    image: str | None,
    platforms: tuple[str, ...],
    docker: bool | None,
    dry_run: bool,
) -> None:
    """Write what the project in DIRECTORY needs to be shipped: shipline.yaml, and a Dockerfile and
    ignore files where there are none. No file is ever replaced.
    """
    project = detect_project(directory)
    files = _files(directory, project, image, _platforms(platforms), docker)
    present = [name for name in files if (directory / name).exists()]
    if set(NAMES) & {*present} and not dry_run and not (docker and len(present) < len(files)):
        raise UsageError(
            f"{directory / present[0]} is there already",
            hint="`shipline init --dry-run` prints what a new one would hold",
        )
    for name, text in files.items():
        if dry_run:
            click.echo(f"# --- {name}\n{text}", nl=False)
        elif name not in present:
            _create(directory / name, text)
        else:
            click.echo(f"{directory / name} is there already; it was left alone", err=True)
    _tell(project, [name for name in files if name not in present])


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
            project = replace(project, dockerfiles=("Dockerfile",))
        elif docker:
            raise UsageError(
                "--dockerfile: nothing here says how the program is started: no start script or"
                " main of package.json, no script of pyproject.toml, no main.py or package main,"
                " and no index.html",
                hint="write a Dockerfile; `shipline init` then takes it as it is",
            )
    if (docker or "Dockerfile" in files) and not project.has_dockerignore:
        files[".dockerignore"] = initial_dockerignore(project)
    if project.language and not project.has_gitignore:
        files[".gitignore"] = initial_gitignore(project)
    return {there: initial_config(project, image=name, platforms=platforms or PLATFORMS), **files}


def _platforms(texts: tuple[str, ...]) -> tuple[str, ...]:
    words = [word.strip() for text in texts for word in text.split(",")]
    return tuple(str(Platform.parse(word)) for word in words if word)


def _create(path: Path, text: str) -> None:
    try:
        with path.open("x") as file:  # never over a file that came in the meantime
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)


def _tell(project: DetectedProject, written: list[str]) -> None:
    language = project.language
    kind = "a static site" if project.site else "no known language"
    kind = f"{language.toolchain.title} with {language.manager}" if language else kind
    click.echo(f"{project.name}: {kind}", err=True)
    reports = language and any(check.reports for check in language.checks)
    if reports and project.has_gitignore and not project.ignores_reports:
        click.echo(
            "add `reports/` to .gitignore: a tree with other files is not the commit's", err=True
        )
    if language and not language.locked:
        click.echo(
            "there is no lock file: commit one (`npm install` writes it), or each build may differ",
            err=True,
        )
    if project.ci:
        click.echo(f"CI is there already: {', '.join(project.ci)}; it was left alone", err=True)
    if not project.dockerfiles and "Dockerfile" not in written:
        why = (
            "" if initial_dockerfile(project) else ": nothing here says how the program is started"
        )
        click.echo(f"there is no Dockerfile{why}; write one before you ship", err=True)
    names = " ".join(written)
    commit = f"git add {names} && git commit -m 'build: ship with shipline'"
    ci = "" if project.ci else ", then `shipline ci github`"
    click.echo(f"next: `{commit}`, `shipline ship --plan`, `shipline ship`{ci}", err=True)
