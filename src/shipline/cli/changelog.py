"""`shipline changelog`: changes since the last version, from conventional commits."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shipline.cli.commit import CommitQuery, commit_options
from shipline.cli.results import write_whole
from shipline.tags import markdown, read_release


@click.command("changelog")
@commit_options
@click.option("--from", "since", default="", metavar="REV", help="After this; the last version.")
@click.option("--to", "until", default="", metavar="REV", help="Up to this; by default HEAD.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write to a file instead.",
)
@click.option("--all", "everything", is_flag=True, help="Include changes that users do not notice.")
@click.option("--json", "as_json", is_flag=True, help="Every change, as JSON.")
def command(
    query: CommitQuery, since: str, until: str, output: Path | None, everything: bool, as_json: bool
) -> None:
    """Print what changed since the last version, as Markdown."""
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
