"""`shipline imagetools`: look at images in registries, and combine them under new names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import click

from shipline.build import Annotation, Level, parse_annotation, parse_tags
from shipline.cli.environment import registry_options
from shipline.cli.inspection import Inspection, describe, look_up
from shipline.cli.template import render
from shipline.content import MemoryStore, Repository, copy_graph
from shipline.errors import NotFound, UsageError
from shipline.oci import Descriptor, Index, Reference, combine


@click.group("imagetools")
def group() -> None:
    """Look at images in registries and combine them."""


@group.command("inspect")
@click.argument("name", metavar="NAME")
@click.option("--raw", is_flag=True, help="Print the manifest, byte for byte.")
@click.option("--format", "template", metavar="TEMPLATE", help="Print fields: {{json .Manifest}}.")
@registry_options
def inspect(name: str, raw: bool, template: str | None) -> None:
    """Show what is under NAME in a registry."""
    if raw and template is not None:
        raise UsageError("--raw and --format exclude each other")
    reference = Reference.parse(name)
    with ExitStack() as stack:
        found = look_up(Remotes(stack)(reference), reference)
        if raw:
            sys.stdout.buffer.write(found.document.raw)
            return
        click.echo(describe(found) if template is None else render(template, found.fields()))


@group.command("create")
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME", help="The new name.")
@click.option("--append", is_flag=True, help="Keep what is under the name now.")
@click.option("--dry-run", is_flag=True, help="Print the index, and write nothing.")
@click.option("--annotation", "annotations", multiple=True, metavar="TYPE:K=V")
@click.option(
    "--prefer-index/--no-prefer-index",
    default=True,
    help="Make an index also of one single image.",
)
@registry_options
def create(
    sources: Sequence[str],
    tags: Sequence[str],
    append: bool,
    dry_run: bool,
    annotations: Sequence[str],
    prefer_index: bool,
) -> None:
    """Give the images SOURCE... a new name, side by side under one index."""
    targets = parse_tags(tags)
    names = [Reference.parse(source) for source in sources]
    wanted = _annotations(annotations)
    if not targets and (append or not dry_run):
        raise UsageError("--tag: there is no name to write to", hint="give one with --tag")
    if not names:
        raise UsageError("there is no source to make an image of")
    with ExitStack() as stack:
        remotes = Remotes(stack)
        found = [*(_existing(remotes, targets) if append else ())]
        found += [look_up(remotes(name), name) for name in names]
        raw, target = _result(found, wanted, prefer_index)
        if dry_run:
            click.echo(raw.decode())
            return
        for name in targets:
            repository = remotes(name)
            for one in found:
                if one.reference.name != name.name:
                    copy_graph(one.repository, repository, one.descriptor)
            repository.tag(target, MemoryStore(raw), name.tag)
            click.echo(f"{name}@{target.digest}", err=True)


class Remotes:
    """Repositories by name, opened once; all are closed with the stack."""

    def __init__(self, stack: ExitStack) -> None:
        from shipline.registry import Client, keychain_from, settings_from

        settings = settings_from(os.environ)
        self._client = stack.enter_context(Client(settings, keychain_from(os.environ)))
        self._opened: dict[str, Repository] = {}

    def __call__(self, reference: Reference) -> Repository:
        if reference.name not in self._opened:
            self._opened[reference.name] = self._client.repository(reference)
        return self._opened[reference.name]


def _existing(remotes: Remotes, targets: Iterable[Reference]) -> Iterable[Inspection]:
    for name in targets:
        try:
            yield look_up(remotes(name), name)
        except NotFound:
            continue


def _annotations(texts: Iterable[str]) -> list[Annotation]:
    wanted = [one for text in texts for one in parse_annotation(text)]
    for one in wanted:
        if one.level not in (Level.INDEX, Level.MANIFEST_DESCRIPTOR):
            raise UsageError(
                f"--annotation: {one.key} cannot be added to a {one.level} that exists",
                hint="write index:key=value or manifest-descriptor:key=value",
            )
    return wanted


def _result(
    found: Sequence[Inspection], wanted: Iterable[Annotation], prefer_index: bool
) -> tuple[bytes, Descriptor]:
    """The document to publish; one index, or one image where that is preferred, stays as it is."""
    wanted = tuple(wanted)
    only = found[0].document if len(found) == 1 and not wanted else None
    if isinstance(only, Index) or (only is not None and not prefer_index):
        return only.raw, found[0].descriptor.plain
    index = combine(
        [one.part() for one in found],
        annotations={one.key: one.value for one in wanted if one.level is Level.INDEX},
        annotate=[
            (one.platform, one.key, one.value)
            for one in wanted
            if one.level is Level.MANIFEST_DESCRIPTOR
        ],
    )
    return index.raw, index.descriptor
