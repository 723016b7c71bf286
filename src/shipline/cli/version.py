"""`shipline version` and `shipline changelog`: version and changes from the commits."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path

import click

from shipline import __version__
from shipline.cli.commit import CommitQuery, commit_options, expected_decision
from shipline.cli.results import write_whole
from shipline.errors import ConfigError
from shipline.git import NoRepository
from shipline.tags import markdown, read_release
from shipline.values import replace


@click.command("version")
@commit_options
@click.option("--next", "following", is_flag=True, help="The next version, on any branch.")
@click.option("--why", is_flag=True, help="Also print the reason.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with the reason and the git tag.")
@click.option(
    "--tag", "reserving", is_flag=True, help="Reserve the version: push its git tag, atomically."
)
@click.option("--parts", is_flag=True, help="Print the versions of shipline and its libraries.")
def command(
    query: CommitQuery, following: bool, why: bool, as_json: bool, reserving: bool, parts: bool
) -> None:
    """Print the version of this commit.

    Outside a repository, prints the versions of shipline and its libraries.
    """
    if parts:
        click.echo("\n".join(_parts()))
        return
    try:
        query.git.text("rev-parse", "--git-dir")
    except NoRepository:
        if reserving or following or as_json:
            raise
        click.echo("\n".join(_parts()))
        return
    _print_version(_on_any_branch(query) if following else query, why, as_json, reserving)


def _print_version(query: CommitQuery, why: bool, as_json: bool, reserving: bool) -> None:
    from shipline.tags import reserve

    if reserving:
        decision = reserve(query.git, query.section, query.event, fetch=True, now=query.now)
    else:
        decision = expected_decision(query)
    if not decision.version:
        raise ConfigError(
            f"this commit has no version: {decision.version_reason}",
            code="version-none",
            hint="--next prints the version it would get as a release",
        )
    if as_json:
        keys = ("version", "versionReason", "gitTag", "commit", "namedCommit", "event")
        document = decision.to_json()
        click.echo(json.dumps({key: document[key] for key in keys}, indent=2))
        return
    click.echo(decision.version)
    if why:
        click.echo(decision.version_reason)


def _on_any_branch(query: CommitQuery) -> CommitQuery:
    """As if the commit were pushed to a branch with versions."""
    event = replace(query.event, kind="push", ref="HEAD")
    return replace(query, section=query.section.releasing(), event=event)


def _parts() -> Iterator[str]:
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    yield f"shipline {__version__}"
    yield f"{platform.python_implementation()} {platform.python_version()}"
    try:
        required = [Requirement(text) for text in requires("shipline") or ()]
    except PackageNotFoundError:  # run from its source
        return
    for part in (requirement.name for requirement in required if not requirement.marker):
        try:
            yield f"{part} {version(part)}"
        except PackageNotFoundError:
            yield f"{part} missing"


@click.command("changelog")
@commit_options
@click.option(
    "--from",
    "since",
    default="",
    metavar="REV",
    help="Changes after this commit; by default the last version.",
)
@click.option(
    "--to", "until", default="", metavar="REV", help="Changes up to this commit; by default HEAD."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write to a file instead.",
)
@click.option(
    "--all", "everything", is_flag=True, help="Include documentation, tests and similar changes."
)
@click.option("--json", "as_json", is_flag=True, help="Every change, as JSON.")
def changelog(
    query: CommitQuery, since: str, until: str, output: Path | None, everything: bool, as_json: bool
) -> None:
    """Print the changes since the last version as Markdown."""
    release, url = read_release(
        query.git, query.section, since=since, until=until, fetch=query.fetch
    )
    url = query.event.url or url
    if as_json:
        text = json.dumps(release.to_json(), indent=2) + "\n"
    else:
        text = markdown(release, url=url, everything=everything)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, text)
