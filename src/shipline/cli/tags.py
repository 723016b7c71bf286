"""`shipline tags`: what the image of this commit is called, and why. It writes nothing."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from shipline.cli.commit import Asked, commit_options, foreseen
from shipline.cli.environment import registry_options
from shipline.errors import UsageError
from shipline.policy.tags import Decision, Placement, place, snapshot


@click.command("tags")
@commit_options
@click.option(
    "-i",
    "--image",
    "images",
    multiple=True,
    metavar="NAME",
    help="Tag this image; also name=NAME,enable=true|false, and several lines (repeatable).",
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
@registry_options
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

    decision = foreseen(asked)
    wanted = enabled_images(images) if images else filter(None, [asked.image])
    named = [Reference.parse(one) for one in wanted]
    names = tuple(one.name for one in named)
    if form == "github":  # as docker/metadata-action has them: name/app, without docker.io
        names = tuple(replace(one, tag="", digest=None).familiar for one in named)
    placements = {name: compare(asked, decision, name) for name in names} if registry else {}
    click.echo(show(decision, names, placements, "json" if as_json else form, bake), nl=False)


def enabled_images(texts: Sequence[str]) -> list[str]:
    """The names in texts as the input `images` of docker/metadata-action has them, in lower case:
    one a line, or several between commas, or `name=NAME,enable=true`. Raises UsageError.
    """
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [name for line in lines if line[:1] not in {"", "#"} for name in _names_of(line)]


def _names_of(line: str) -> list[str]:
    fields = [field.strip() for field in next(csv.reader([line]))]
    if not any("=" in field for field in fields):
        return [field.lower() for field in fields if field]
    told = {}
    for field in fields:
        key, equals, value = (part.strip() for part in field.partition("="))
        told[key.lower() if equals else "name"] = value if equals else key
    name, enable = told.pop("name", ""), told.pop("enable", "true")
    if not name or told or enable not in {"true", "false"}:
        raise UsageError(
            f"--image {line}: not name=NAME,enable=true|false",
            hint="NAME alone, or name=NAME with enable=true or enable=false",
        )
    return [name.lower()] if enable == "true" else []


def compare(asked: Asked, decision: Decision, image: str) -> tuple[Placement, ...]:
    """What to do about each tag in the registry that has `image`."""
    from shipline.cli.imagetools import Remotes
    from shipline.git import is_ancestor
    from shipline.oci import Reference

    with ExitStack() as stack:
        repository = Remotes(stack)(Reference.parse(image))
        found = snapshot(repository, decision.names)
    return place(decision, found, lambda old, new: is_ancestor(asked.git, old, new))
