"""`shipline imagetools`: inspect images in registries, tag and combine them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
_SLSA, _SPDX = "https://slsa.dev/provenance/", "https://spdx.dev/Document"

Statements = Iterator[tuple[str, Mapping[str, Any] | str]]
"""Predicates with their types."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """An image or index with its reference, and the repository with its parts."""

    reference: Reference
    descriptor: Descriptor
    document: Manifest | Index
    repository: Repository

    def part(self) -> Part:
        """The part for an index; a single image has its platform."""
        if isinstance(self.document, Index):
            return Part(self.document)
        return Part(self.document, _platform(self._config(self.document)))

    def fields(self) -> dict[str, Any]:
        """The fields of templates; Image, Provenance and SBOM are fetched on use."""
        return {
            "Name": str(self.reference),
            "Manifest": self._manifest(),
            "Image": self._image,
            "Provenance": lambda: self._attested(_provenance),
            "SBOM": lambda: self._attested(_sbom),
        }

    def _manifest(self) -> dict[str, Any]:
        value = self.descriptor.to_json()
        if isinstance(self.document, Index):
            value = {"schemaVersion": 2, **value}
            value["manifests"] = [manifest.to_json() for manifest in self.document.manifests]
        if self.document.annotations:
            value["annotations"] = dict(self.document.annotations)
        return value

    def _image(self) -> object:
        """The configuration; for an index by platform, each fetched on use."""
        if isinstance(self.document, Manifest):
            return self._config(self.document)
        return self._by_platform(
            {
                str(image.platform): lambda image=image: self._config(self._child(image))
                for image in self._images
            }
        )

    def _attested(self, select: Callable[[Statements], dict[str, Any]]) -> object:
        """What `select` returns for the statements about each image; for an index by platform."""
        attested = {
            str(image.platform): selected
            for image in self._images
            if (selected := select(self._statements(image)))
        }
        return self._by_platform(attested)

    def _by_platform(self, values: dict[str, Any]) -> object:
        """The values; that of the only platform where an index has attestations besides it."""
        listed = self.document.manifests if isinstance(self.document, Index) else ()
        if len(values) == 1 and len(listed) > len(self._images) == 1:
            return next(iter(values.values()))
        return values

    @property
    def _images(self) -> tuple[Descriptor, ...]:
        """The entries of an index that are images."""
        return self.document.images if isinstance(self.document, Index) else ()

    def _statements(self, image: Descriptor) -> Statements:
        """The predicates about `image`, with their types."""
        from shipline.supply import Statement, stored_statements  # slow to import

        assert isinstance(self.document, Index)
        for kind, raw in stored_statements(self.repository, self.document, image):
            yield kind, Statement.parse(raw).predicate

    def _child(self, descriptor: Descriptor) -> Manifest:
        raw = fetch_all(self.repository, descriptor, MANIFEST_LIMIT)
        child = parse_manifest(raw, descriptor.media_type)
        if isinstance(child, Index):
            raise ContentError(f"{descriptor.digest} is an index inside an index")
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


def _provenance(statements: Statements) -> dict[str, Any]:
    found = [predicate for kind, predicate in statements if kind.startswith(_SLSA)]
    return {"SLSA": found[0]} if found else {}


def _sbom(statements: Statements) -> dict[str, Any]:
    """The list of the image's own packages, and those of stages and contexts."""
    found = [predicate for kind, predicate in statements if kind == _SPDX]
    more = {"AdditionalSPDXs": found[1:]} if found[1:] else {}
    return {"SPDX": found[0], **more} if found else {}


def inspect_image(repository: Repository, reference: Reference) -> Inspection:
    """The image at `reference`. Raises NotFound."""
    reference = reference.or_latest
    target = repository.resolve(str(reference.digest or reference.tag))
    raw = fetch_all(repository, target, MANIFEST_LIMIT)
    return Inspection(reference, target, parse_manifest(raw, target.media_type), repository)


def describe(inspected: Inspection) -> str:
    """The image as text, as `docker buildx imagetools inspect` prints it."""
    lines = [
        f"Name:      {inspected.reference}",
        f"MediaType: {inspected.descriptor.media_type}",
        f"Digest:    {inspected.descriptor.digest}",
    ]
    if isinstance(inspected.document, Index):
        lines += ["", "Manifests:"]
        for manifest in inspected.document.manifests:
            lines += [*_entry(inspected.reference, manifest), ""]
    return "\n".join(lines).rstrip()


def _entry(reference: Reference, child: Descriptor) -> Iterator[str]:
    yield f"  Name:      {reference.name}@{child.digest}"
    yield f"  MediaType: {child.media_type}"
    if child.platform is not None:
        yield f"  Platform:  {child.platform}"
    if child.artifact_type:
        yield f"  ArtifactType: {child.artifact_type}"
    if child.annotations:
        yield "  Annotations:"
        yield from (f"    {key}: {value}" for key, value in sorted(child.annotations.items()))


def _platform(config: dict[str, Any]) -> Platform | None:
    """None for an artifact, which has no image configuration."""
    return Platform.from_json(config) if config.get("os") and config.get("architecture") else None


@click.group("imagetools")
def group() -> None:
    """Inspect images in registries, tag and combine them."""


@group.command("inspect")
@click.argument("name", metavar="NAME")
@click.option("--raw", is_flag=True, help="Print the manifest, byte for byte.")
@click.option(
    "--format", "template", metavar="TEMPLATE", help="Print fields, as in {{json .Manifest}}."
)
@registry_options
def inspect(name: str, raw: bool, template: str | None) -> None:
    """Show the manifest or index of an image."""
    if raw and template is not None:
        raise UsageError("--raw and --format cannot be combined")
    reference = Reference.parse(name)
    with ExitStack() as stack:
        inspected = inspect_image(OpenRepositories(stack)(reference), reference)
        if raw:
            sys.stdout.buffer.write(inspected.document.raw)
            return
        click.echo(
            describe(inspected) if template is None else render(template, inspected.fields())
        )


@group.command("create")
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME", help="The new tag.")
@click.option("--append", is_flag=True, help="Keep the images that the tag has now.")
@click.option("--dry-run", is_flag=True, help="Print the index without writing it.")
@click.option("--annotation", "annotations", multiple=True, metavar="TYPE:K=V")
@click.option(
    "--prefer-index/--no-prefer-index",
    default=True,
    help="Create an index even for a single image.",
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
    """Tag SOURCE, or several images as one index."""
    targets = parse_tags(tags)
    names = [Reference.parse(source) for source in sources]
    extra = _annotations(annotations)
    if not targets and (append or not dry_run):
        raise UsageError("there is no tag to write to", hint="pass --tag NAME")
    if not names:
        raise UsageError("no SOURCE is given")
    with ExitStack() as stack:
        remotes = OpenRepositories(stack)
        inspected = [*(_existing(remotes, targets) if append else ())]
        inspected += [inspect_image(remotes(name), name) for name in names]
        raw, target = _result(inspected, extra, prefer_index)
        if dry_run:
            click.echo(raw.decode())
            return
        for name in targets:
            repository = remotes(name)
            for image in inspected:
                if image.reference.name != name.name:
                    copy_graph(image.repository, repository, image.descriptor)
            repository.tag(target, MemoryStore(raw), name.tag)
            click.echo(f"{name}@{target.digest}", err=True)


class OpenRepositories:
    """Repositories by name, opened once and closed with the stack."""

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
            yield inspect_image(remotes(name), name)
        except NotFound:
            continue


def _annotations(texts: Iterable[str]) -> list[Annotation]:
    annotations = [annotation for text in texts for annotation in parse_annotation(text)]
    for annotation in annotations:
        if annotation.level not in (Level.INDEX, Level.MANIFEST_DESCRIPTOR):
            raise UsageError(
                f"--annotation: {annotation.key} cannot be added to an existing {annotation.level}",
                hint="write index:key=value or manifest-descriptor:key=value",
            )
    return annotations


def _result(
    inspected: Sequence[Inspection], annotations: Iterable[Annotation], prefer_index: bool
) -> tuple[bytes, Descriptor]:
    """The document to publish; a single index, or image without `prefer_index`, is unchanged."""
    annotations = tuple(annotations)
    only = inspected[0].document if len(inspected) == 1 and not annotations else None
    if isinstance(only, Index) or (only is not None and not prefer_index):
        return only.raw, inspected[0].descriptor.plain
    index = combine(
        [image.part() for image in inspected],
        annotations={
            annotation.key: annotation.value
            for annotation in annotations
            if annotation.level is Level.INDEX
        },
        annotate=[
            (annotation.platform, annotation.key, annotation.value)
            for annotation in annotations
            if annotation.level is Level.MANIFEST_DESCRIPTOR
        ],
    )
    return index.raw, index.descriptor
