"""`shipline imagetools`: inspect images in registries, tag and combine them.

What is printed is that of `docker buildx imagetools`, byte for byte, with its fields in its order.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import click
from msgspec import Struct

from shipline.build import Annotation, Level, parse_annotation, parse_platforms, parse_tags
from shipline.cli.build_options import MODES, SwitchCommand
from shipline.cli.environment import registry_options
from shipline.cli.results import write_whole
from shipline.cli.template import GoStruct, go_json, render
from shipline.content import MemoryStore, Repository, copy_graph, fetch_all
from shipline.errors import ContentError, NotFound, UsageError
from shipline.oci import (
    MANIFEST_LIMIT,
    NO_ANNOTATIONS,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Part,
    Platform,
    Reference,
    combine,
    parse_manifest,
)
from shipline.values import replace

_CONFIG_LIMIT = 8 << 20  # bytes
_STATED = ("SLSA", "SPDX", "AdditionalSPDXs")
_SLSA, _SPDX = "https://slsa.dev/provenance/", "https://spdx.dev/Document"

Statements = Iterator[tuple[str, Mapping[str, Any] | str]]
"""Predicates with their types."""


class Inspection(Struct, frozen=True):
    """An image or index with its reference, and the repository with its parts. `platform` and
    `annotations` are those of its descriptor where it was given by one.
    """

    reference: Reference
    descriptor: Descriptor
    document: Manifest | Index
    repository: Repository
    platform: Platform | None = None
    annotations: Mapping[str, str] = NO_ANNOTATIONS

    def part(self) -> Part:
        """The part for an index; a single image has its platform."""
        if isinstance(self.document, Index):
            return Part(self.document)
        platform = self.platform or _platform(self._config(self.document))
        return Part(self.document, platform, self.annotations)

    def fields(self, name: str = "") -> dict[str, Any]:
        """The fields of templates, `name` as it was given; Image, Provenance and SBOM are fetched
        on use.
        """
        return GoStruct(
            {
                "Name": name or str(self.reference),
                "Manifest": self._manifest(),
                "Image": self._image,
                "Provenance": lambda: self._attested(_provenance),
                "SBOM": lambda: self._attested(_sbom),
            },
            json={"name": "Name", "manifest": "Manifest", "image": "Image"},
        )

    def _manifest(self) -> dict[str, Any]:
        value = self.descriptor.plain.to_json()
        if not isinstance(self.document, Index):
            return value
        value = {"schemaVersion": 2, **value}
        value["manifests"] = [_entry_json(one) for one in self.document.manifests]
        if self.document.annotations:
            value["annotations"] = dict(sorted(self.document.annotations.items()))
        return value

    def _image(self) -> object:
        """The configuration; for an index by platform, each fetched on use."""
        if isinstance(self.document, Manifest):
            return _image_json(self._config(self.document))
        return self._by_platform(
            {
                str(image.platform): lambda image=image: _image_json(
                    self._config(self._child(image))
                )
                for image in self._images
            }
        )

    def _attested(self, select: Callable[[Statements], dict[str, Any]]) -> object:
        """What `select` returns for the statements about each image; for an index by platform."""
        found = {str(image.platform): select(self._statements(image)) for image in self._images}
        if len(found) > 1:
            return GoStruct({key: one for key, one in sorted(found.items()) if one}, absent=_STATED)
        return next(iter(found.values()), select(iter(())))

    def _by_platform(self, values: dict[str, Any]) -> object:
        """The values; that of the only platform where there is one."""
        return next(iter(values.values())) if len(values) == 1 else dict(sorted(values.items()))

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
    found = [_sorted(predicate) for kind, predicate in statements if kind.startswith(_SLSA)]
    return GoStruct({"SLSA": found[0]} if found else {}, absent=_STATED)


def _sbom(statements: Statements) -> dict[str, Any]:
    """The list of the image's own packages, and those of stages and contexts."""
    found = [_sorted(predicate) for kind, predicate in statements if kind == _SPDX]
    more = {"AdditionalSPDXs": found[1:]} if found[1:] else {}
    value = {"SPDX": found[0], **more} if found else {}
    return GoStruct(value, absent=_STATED)


def _sorted(value: Any) -> Any:
    """JSON with its keys in order, as Go writes maps."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [*map(_sorted, value)] if isinstance(value, list) else value


_IMAGE = ("created", "author", "architecture", "os", "os.version", "os.features", "variant")
_CONFIG = (
    *("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels"),
    *("StopSignal", "ArgsEscaped"),
)
_HISTORY = {
    "created": "Created",
    "created_by": "CreatedBy",
    "author": "Author",
    "comment": "Comment",
    "empty_layer": "EmptyLayer",
}
"""The fields of a configuration in the OCI specification, in the order of its Go types."""


def _picked(value: object, names: Iterable[str]) -> dict[str, Any]:
    fields = value if isinstance(value, Mapping) else {}
    return GoStruct(
        {name: _sorted(fields[name]) for name in names if fields.get(name)}, absent=tuple(names)
    )


def _history(entry: object) -> GoStruct:
    picked = _picked(entry, _HISTORY)
    return GoStruct(
        {_HISTORY[name]: value for name, value in picked.items()},
        absent=_HISTORY.values(),
        json={name: _HISTORY[name] for name in picked},
    )


def _image_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that the OCI specification has."""
    root = config.get("rootfs")
    value = {**_picked(config, _IMAGE), "config": _picked(config.get("config"), _CONFIG)}
    root = root if isinstance(root, Mapping) else {}
    value["rootfs"] = GoStruct(
        {"Type": root.get("type", ""), "DiffIDs": root.get("diff_ids")},
        json={"type": "Type", "diff_ids": "DiffIDs"},
    )
    if history := config.get("history"):
        value["history"] = [_history(one) for one in history]
    return GoStruct(value, absent=(*_IMAGE, "history"))


def _entry_json(entry: Descriptor) -> dict[str, Any]:
    value = entry.to_json()
    if entry.annotations:
        value["annotations"] = dict(sorted(entry.annotations.items()))
    return value


def inspect_image(repository: Repository, reference: Reference) -> Inspection:
    """The image at `reference`. Raises NotFound."""
    reference = reference.or_latest
    target = repository.resolve(str(reference.digest or reference.tag))
    raw = fetch_all(repository, target, MANIFEST_LIMIT)
    return Inspection(reference, target, parse_manifest(raw, target.media_type), repository)


def describe(inspected: Inspection) -> str:
    """The image as text, as `docker buildx imagetools inspect` prints it."""
    lines = _columns(
        [
            ("Name:", str(inspected.reference)),
            ("MediaType:", inspected.descriptor.media_type),
            ("Digest:", str(inspected.descriptor.digest)),
        ]
    )
    if isinstance(inspected.document, Index):
        lines += _columns([("", ""), ("Manifests:", "")])
        rows: list[tuple[str, str]] = []
        for number, entry in enumerate(inspected.document.manifests):
            rows += [("", "")] if number else []
            rows += [(f"  {name}:", value) for name, value in _entry(inspected.reference, entry)]
            if entry.platform is not None and entry.annotations:  # ends a block of columns
                lines += _columns([*rows, ("  Annotations:", "")])
                annotations = sorted(entry.annotations.items())
                lines += _columns([(f"    {key}:", value) for key, value in annotations])
                rows = []
        lines += _columns(rows)
    return "".join(f"{line}\n" for line in lines)


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0) + 1
    return [name.ljust(width) + value for name, value in rows]


def _entry(reference: Reference, child: Descriptor) -> Iterator[tuple[str, str]]:
    tag = f":{reference.tag}" if reference.tag else ""
    yield "Name", f"{reference.name}{tag}@{child.digest}"
    yield "MediaType", child.media_type
    if (platform := child.platform) is not None:
        yield "Platform", str(platform)
        if platform.os_version:
            yield "OSVersion", platform.os_version
        if platform.os_features:
            yield "OSFeatures", ", ".join(platform.os_features)
        if child.urls:
            yield "URLs", ", ".join(child.urls)


def _platform(config: dict[str, Any]) -> Platform | None:
    """None for an artifact, which has no image configuration."""
    return Platform.from_json(config) if config.get("os") and config.get("architecture") else None


_builder = click.option("--builder", hidden=True, expose_value=False)
"""buildx reads the settings of registries from it; here they are those of this machine."""


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
@_builder
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
        is_whole = template is not None and "".join(template.split()) == "{{.Manifest}}"
        shown = describe(inspected) if not template or is_whole else None
        click.echo(shown or render(template or "", inspected.fields(name)), nl=False)


@group.command("create", cls=SwitchCommand)
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="PATH",
    help="A file with a SOURCE: a name, a digest or the JSON of a descriptor.",
)
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME", help="The new tag.")
@click.option("--append", is_flag=True, help="Keep the images that the first tag has now.")
@click.option("--dry-run", is_flag=True, help="Print the index without writing it.")
@click.option("--annotation", "annotations", multiple=True, metavar="TYPE:K=V")
@click.option(
    "-p",
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH",
    help="Keep the images of these platforms alone, and what is attached to them.",
)
@click.option(
    "--prefer-index/--no-prefer-index",
    default=None,  # SwitchCommand reads --prefer-index=false
    help="Create an index even for a single image.",
)
@click.option("--metadata-file", metavar="PATH", help="Write the descriptor here, as JSON.")
@click.option("--progress", type=click.Choice(MODES), default="auto", help="quiet: print nothing.")
@registry_options
@_builder
def create(
    sources: Sequence[str],
    files: Sequence[str],
    tags: Sequence[str],
    append: bool,
    dry_run: bool,
    annotations: Sequence[str],
    platforms: Sequence[str],
    prefer_index: bool | None,
    metadata_file: str | None,
    progress: str,
) -> None:
    """Tag SOURCE, or several images as one index.

    A SOURCE is a name, a digest, or the JSON of a descriptor, whose platform and annotations count;
    the last two are in the repository that the other names have in common.
    """
    targets = parse_tags(tags)
    given = [*map(_read, files), *sources]
    extra = _annotations(annotations)
    if not targets and (append or not dry_run):
        raise UsageError("there is no tag to write to", hint="pass --tag NAME")
    if not given:
        raise UsageError("no SOURCE is given")
    wanted = parse_platforms(platforms)
    named = _sources(given, targets)
    with ExitStack() as stack:
        remotes = OpenRepositories(stack)
        inspected = [*(_existing(remotes, targets[:1]) if append else ())]
        inspected += [_inspect_source(remotes, *source) for source in named]
        raw, target, kept = _result(inspected, extra, prefer_index is not False, wanted)
        if dry_run:
            click.echo(raw.decode())
            return
        for name in targets:
            repository = remotes(name)
            for image in inspected:
                if image.reference.name != name.name:
                    for part in kept(image):
                        copy_graph(image.repository, repository, part)
            repository.tag(target, MemoryStore(raw), name.tag)
            if progress not in ("none", "quiet"):
                click.echo(f"{name}@{target.digest}", err=True)
    if metadata_file is not None:
        facts = {
            "containerimage.descriptor": target.to_json(),
            "containerimage.digest": str(target.digest),
            "image.name": ",".join(map(str, targets)),
        }
        write_whole(Path(metadata_file), json.dumps(facts, indent=2) + "\n")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(MANIFEST_LIMIT).strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"--file: cannot read {path}: {reason}") from None


_Fields = Mapping[str, Any]
"""Fields of a descriptor; other than the digest they may be missing."""


def _sources(texts: Iterable[str], targets: Sequence[Reference]) -> list[tuple[Reference, _Fields]]:
    """The reference of each source, and the fields of its descriptor as far as they are given.

    Raises UsageError where it is not clear in which repository a digest is.
    """
    parsed = [_parse_source(text) for text in texts]
    named = [*targets, *(one for one in parsed if isinstance(one, Reference))]
    repositories = {one.name: one for one in named}
    found: list[tuple[Reference, _Fields]] = []
    for one in parsed:
        if isinstance(one, Reference):
            found.append((one, {}))
        elif len(repositories) == 1:
            home = next(iter(repositories.values()))
            found.append((home.at(Digest.parse(str(one["digest"]))), one))
        else:
            raise UsageError(
                f"in which repository {one['digest']} is, is not clear:"
                f" {', '.join(sorted(repositories)) or 'none is named'}",
                hint="write it as NAME@DIGEST",
            )
    return found


def _parse_source(text: str) -> Reference | _Fields:
    if text.startswith("{"):
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise UsageError(f"not the JSON of a descriptor: {text[:80]!r} ({error})") from None
        if not isinstance(fields.get("digest"), str):
            raise UsageError(f"a descriptor without digest: {text[:80]!r}")
        return cast(_Fields, fields)
    if text.startswith(("sha256:", "sha512:")):
        return {"digest": str(Digest.parse(text))}
    return Reference.parse(text)


def _inspect_source(remotes: OpenRepositories, name: Reference, given: _Fields) -> Inspection:
    found = inspect_image(remotes(name), name)
    if given.get("size") not in (None, 0, found.descriptor.size):
        raise UsageError(
            f"{name.digest} has {found.descriptor.size} bytes, its descriptor says {given['size']}"
        )
    platform, annotations = given.get("platform"), given.get("annotations")
    return replace(
        found,
        platform=Platform.from_json(platform) if isinstance(platform, dict) else None,
        annotations=annotations if isinstance(annotations, dict) else NO_ANNOTATIONS,
    )


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
    inspected: Sequence[Inspection],
    annotations: Iterable[Annotation],
    prefer_index: bool,
    platforms: Sequence[Platform] = (),
) -> tuple[bytes, Descriptor, Callable[[Inspection], Sequence[Descriptor]]]:
    """The document to publish, and what it has of each of `inspected`; a single index, or image
    without `prefer_index`, is unchanged.
    """
    annotations = tuple(annotations)
    alone = len(inspected) == 1 and not annotations and not platforms
    only = inspected[0].document if alone else None
    if isinstance(only, Index) or (only is not None and not prefer_index):
        return only.raw, inspected[0].descriptor.plain, lambda image: [image.descriptor]
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
    if platforms:
        index = _of_platforms(index, platforms)
    index = _as_of_buildx(index)
    kept = {one.digest for one in index.manifests}
    return (
        index.raw,
        index.descriptor,
        lambda image: [one.plain for one in image.part().descriptors if one.digest in kept],
    )


def _as_of_buildx(index: Index) -> Index:
    """The index with the bytes, so the digest, that buildx gives to it."""
    document = json.loads(index.raw)
    for one in (document, *document["manifests"]):
        if "annotations" in one:
            one["annotations"] = dict(sorted(one["annotations"].items()))
    parsed = parse_manifest(go_json(document).encode())
    assert isinstance(parsed, Index)
    return parsed


_ABOUT = "vnd.docker.reference.digest"


def _of_platforms(index: Index, platforms: Sequence[Platform]) -> Index:
    images = [one for one in index.manifests if one.platform in platforms]
    if not images:
        raise UsageError(
            f"no SOURCE is for {', '.join(map(str, platforms))}",
            hint=f"there are {', '.join(map(str, index.platforms))}",
        )
    digests = {str(one.digest) for one in images}
    kept = [
        one for one in index.manifests if one in images or one.annotations.get(_ABOUT) in digests
    ]
    return Index.make(kept, media_type=index.media_type, annotations=index.annotations)
