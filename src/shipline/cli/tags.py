"""`shipline tags`: what the image of this commit is called, and why. It writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from shipline.cli.commit import Asked, commit_options
from shipline.policy.tags import Decision, Placement, decide, place, snapshot, survey


@click.command("tags")
@commit_options
@click.option(
    "-i", "--image", "images", multiple=True, metavar="NAME", help="Tag this image (repeatable)."
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--format",
    "form",
    default="text",
    metavar="FORMAT",
    help="text, json, names, github, or a template such as {{.version}}.",
)
@click.option(
    "--bake-file",
    "bake",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="With --format github: write the definition for bake there.",
)
@click.option("--registry", is_flag=True, help="Compare with what the registry has.")
def command(
    asked: Asked,
    images: Sequence[str],
    as_json: bool,
    form: str,
    bake: Path | None,
    registry: bool,
) -> None:
    """Print the tags of this commit's image, with the reason for each."""
    from shipline.cli.tagoutputs import show
    from shipline.oci import Reference

    situation = survey(asked.git, asked.section, asked.event, fetch=asked.fetch, now=asked.now)
    decision = decide(asked.section, situation)
    named = [Reference.parse(one) for one in images or filter(None, [asked.image])]
    names = tuple(one.name for one in named)
    if form == "github":  # as docker/metadata-action has them: name/app, without docker.io
        names = tuple(replace(one, tag="", digest=None).familiar for one in named)
    placements = {name: compare(asked, decision, name) for name in names} if registry else {}
    click.echo(show(decision, names, placements, "json" if as_json else form, bake), nl=False)


def compare(asked: Asked, decision: Decision, image: str) -> tuple[Placement, ...]:
    """What to do about each tag in the registry that has `image`."""
    from shipline.cli.imagetools import Remotes
    from shipline.git import is_ancestor
    from shipline.oci import Reference

    with ExitStack() as stack:
        repository = Remotes(stack)(Reference.parse(image))
        found = snapshot(repository, decision.names)
    return place(decision, found, lambda old, new: is_ancestor(asked.git, old, new))
