"""`shipline imagetools`: look at images in registries, and combine them under new names."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import click

from shipline.build import Annotation, Level, parse_annotation, parse_tags
from shipline.cli.environment import registry_options
from shipline.cli.template import render
from shipline.content import MemoryStore, Repository, copy_graph, fetch_all
from shipline.errors import ContentError, NotFound, UsageError
from shipline.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    Index,
    Manifest,
    Part,
    Platform,
    Reference,
    combine,
    parse_manifest,
)

_CONFIG_LIMIT = 8 << 20  # bytes
_ATTESTATION = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class Inspection:
    """An image or index under the name it was asked for, where its parts can be fetched."""

    reference: Reference
    descriptor: Descriptor
    document: Manifest | Index
    repository: Repository

    def part(self) -> Part:
        """For combining: a single image with its platform."""
        if isinstance(self.document, Index):
            return Part(self.document)
        return Part(self.document, _platform(self._config(self.document)))

    def fields(self) -> dict[str, Any]:
        """What templates see: Name, Manifest, and Image, which is fetched when it is named."""
        return {"Name": str(self.reference), "Manifest": self._manifest(), "Image": self._image}

    def _manifest(self) -> dict[str, Any]:
        value = self.descriptor.to_json()
        if isinstance(self.document, Index):
            value = {"schemaVersion": 2, **value}
            value["manifests"] = [one.to_json() for one in self.document.manifests]
        if self.document.annotations:
            value["annotations"] = dict(self.document.annotations)
        return value

    def _image(self) -> dict[str, Any]:
        """The configuration; for an index one by platform, fetched when it is named."""
        if isinstance(self.document, Manifest):
            return self._config(self.document)
        return {
            str(one.platform): lambda one=one: self._config(self._child(one))
            for one in self.document.manifests
            if one.platform is not None and _ATTESTATION not in one.annotations
        }

    def _child(self, one: Descriptor) -> Manifest:
        child = parse_manifest(fetch_all(self.repository, one, MANIFEST_LIMIT), one.media_type)
        if isinstance(child, Index):
            raise ContentError(f"{one.digest} is an index inside an index")
        return child

    def _config(self, manifest: Manifest) -> dict[str, Any]:
        raw = fetch_all(self.repository, manifest.config, _CONFIG_LIMIT)
        try:
            document = json.loads(raw)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ContentError(f"{manifest.config.digest} is not an image configuration")
        return document


def look_up(repository: Repository, reference: Reference) -> Inspection:
    """Raises NotFound where there is nothing under the name."""
    reference = reference.or_latest
    asked = str(reference.digest) if reference.digest else reference.tag
    target = repository.resolve(asked)
    raw = fetch_all(repository, target, MANIFEST_LIMIT)
    return Inspection(reference, target, parse_manifest(raw, target.media_type), repository)


def describe(found: Inspection) -> str:
    """The image for a person, as `docker buildx imagetools inspect` words it."""
    lines = [
        f"Name:      {found.reference}",
        f"MediaType: {found.descriptor.media_type}",
        f"Digest:    {found.descriptor.digest}",
    ]
    if isinstance(found.document, Index):
        lines += ["", "Manifests:"]
        for one in found.document.manifests:
            lines += [*_entry(found.reference, one), ""]
    return "\n".join(lines).rstrip()


def _entry(reference: Reference, one: Descriptor) -> Iterator[str]:
    yield f"  Name:      {reference.name}@{one.digest}"
    yield f"  MediaType: {one.media_type}"
    if one.platform is not None:
        yield f"  Platform:  {one.platform}"
    if one.artifact_type:
        yield f"  ArtifactType: {one.artifact_type}"
    if one.annotations:
        yield "  Annotations:"
        yield from (f"    {key}: {value}" for key, value in sorted(one.annotations.items()))


def _platform(config: dict[str, Any]) -> Platform | None:
    """None for an artifact, whose configuration is not that of an image."""
    return Platform.from_json(config) if config.get("os") and config.get("architecture") else None


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
        found = look_up(OpenRepositories(stack)(reference), reference)
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
        remotes = OpenRepositories(stack)
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


class OpenRepositories:
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


def _existing(remotes: OpenRepositories, targets: Iterable[Reference]) -> Iterable[Inspection]:
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
