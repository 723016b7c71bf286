"""`shipline imagetools`: inspect images in registries, tag and combine them.

What is printed is that of `docker buildx imagetools`, byte for byte, with its fields in its order.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from msgspec import Struct

from shipline.build import Annotation, Level, parse_annotation, parse_platforms, parse_tags
from shipline.cli.build_options import SwitchCommand
from shipline.cli.environment import registry_options, skopeo_options
from shipline.cli.inspection import Inspection, describe, inspect_image
from shipline.cli.options import MODES
from shipline.cli.program import CommandGroup
from shipline.cli.results import write_whole
from shipline.cli.template import go_json, render
from shipline.content import MemoryStore, attempts, copy_graph, fetch_all, settling
from shipline.errors import FlagConflict, MissingFlag, NotFound, UsageError
from shipline.files import reading
from shipline.images import OpenImage, Place, Places, TagMoved, image_tree, parse_place
from shipline.oci import (
    CONFIG_LIMIT,
    MANIFEST_LIMIT,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Platform,
    Reference,
    combine,
    is_attestation,
    parse_manifest,
)
from shipline.supply import copy_evidence
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.registry import RemoteRepository

F = TypeVar("F", bound=Callable[..., Any])
_PLATFORM_FIELDS = ("architecture", "os", "os.version", "os.features", "variant")

_builder = click.option("--builder", hidden=True, expose_value=False)
"""buildx reads the settings of registries from it; here they are those of this machine."""


@click.group("imagetools", cls=CommandGroup)
def group() -> None:
    """Inspect images in registries, tag and combine them."""


def _inspect_options(function: F) -> F:
    raw = click.option("--raw", is_flag=True, help="Print the manifest, byte for byte.")
    template = click.option(
        "--format", "template", metavar="TEMPLATE", help="Print fields, as in {{json .Manifest}}."
    )
    return click.argument("name", metavar="NAME")(raw(template(registry_options(function))))


@group.command("inspect")
@_inspect_options
@_builder
def inspect(name: str, raw: bool, template: str | None) -> None:
    """Show the manifest or index of an image."""
    if raw and template is not None:
        raise FlagConflict("--raw and --format cannot be combined")
    with _opened(name) as (place, image):
        _show(name, place, image, raw=raw, template=template)


@click.command("inspect")
@_inspect_options
@click.option("--tree", is_flag=True, help="Show platforms, layers, attestations and signatures.")
@click.option("--config", is_flag=True, help="Print the configuration of an image, byte for byte.")
@click.option("--platform", metavar="OS/ARCH", help="Look at the image for this platform.")
@skopeo_options
def inspect_command(
    name: str, raw: bool, template: str | None, tree: bool, config: bool, platform: str | None
) -> None:
    """Show the manifest or index of an image, in a registry or wherever `shipline copy` reads."""
    if (raw or config) + tree + (template is not None) > 1:
        raise FlagConflict("give one of --raw, --format, --tree, --config")
    with _opened(name) as (place, image):
        if platform or (config and isinstance(image.document(), Index)):
            wanted = Platform.parse(platform) if platform else Platform.local()
            image = OpenImage(image.source, image.select([wanted]))
            place = replace(place, **_selected(place, image.root.digest))
        if tree:
            click.echo("\n".join(image_tree(image, str(place)).lines()))
        elif config:
            document = image.document()
            assert isinstance(document, Manifest)
            content = fetch_all(image.source, document.config, CONFIG_LIMIT)
            sys.stdout.buffer.write(content)
        else:
            _show(name, place, image, raw=raw, template=template)


def _selected(place: Place, digest: Digest) -> dict[str, Any]:
    """The fields of a place with the digest in place of its tag, where it can have one."""
    if place.remote is not None:
        return {"reference": place.remote.at(digest)}
    return {} if place.reference is not None else {"tag": str(digest)}


@contextmanager
def _opened(name: str) -> Iterator[tuple[Place, OpenImage]]:
    place = parse_place(name)
    with ExitStack() as stack:
        yield place, OpenRepositories(stack).places.open(place)


def _show(name: str, place: Place, image: OpenImage, *, raw: bool, template: str | None) -> None:
    inspected = _inspection(place.remote or place, image)
    if raw:
        sys.stdout.buffer.write(inspected.document.raw)
        return
    is_whole = template is not None and "".join(template.split()) == "{{.Manifest}}"
    shown = describe(inspected) if not template or is_whole else None
    click.echo(shown or render(template or "", inspected.fields(name)), nl=False)


def _inspection(name: Reference | Place, image: OpenImage) -> Inspection:
    return Inspection(name, image.root, image.document(), image.source)


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
    the last two are in the repository that the other names have in common. Images in layouts and
    archives are named as in `shipline copy`.
    """
    targets = parse_tags(tags)
    given = [*map(_read, files), *sources]
    extra = _annotations(annotations)
    if not given:
        raise MissingFlag("no SOURCE is given")
    if not targets and not dry_run:
        raise MissingFlag("there is no tag to write to", hint="pass --tag NAME")
    wanted = parse_platforms(platforms)
    named = _sources(given, targets)
    with ExitStack() as stack:
        remotes = OpenRepositories(stack)
        added = [_inspect_source(remotes, *source) for source in named]

        def write(existing: Sequence[Inspection]) -> _NewImage:
            inspected = [*existing, *added]
            new = _combined(inspected, extra, prefer_index is not False, wanted)
            for name in () if dry_run else targets:
                for image in inspected:
                    if image.reference.name != name.name:
                        for part in new.parts_of(image):
                            copy_graph(image.repository, remotes(name), part)
                        if isinstance(image.reference, Reference):
                            for part in new.attestations_of(image):  # with their signatures
                                copy_evidence(remotes(image.reference), remotes(name), part)
            return new

        if dry_run:
            click.echo(write(_existing(remotes, targets[:1]) if append else ()).raw.decode())
            return
        new = _append(remotes, targets[0], write) if append else write(())
        for number, name in enumerate(targets):
            if number or not append:
                remotes(name).tag(new.target, MemoryStore(new.raw), name.tag)
            if progress not in ("none", "quiet"):
                click.echo(f"{name}@{new.target.digest}", err=True)
    if metadata_file is not None:
        facts = {
            "containerimage.descriptor": new.target.to_json(),
            "containerimage.digest": str(new.target.digest),
            "image.name": ",".join(map(str, targets)),
        }
        write_whole(Path(metadata_file), json.dumps(facts, indent=2) + "\n")


def _read(path: str) -> str:
    with reading(path, of="--file"), open(path, encoding="utf-8") as file:
        return file.read(MANIFEST_LIMIT).strip()


_Fields = Mapping[str, Any]
"""Fields of a descriptor; other than the digest they may be missing."""


def _sources(
    texts: Iterable[str], targets: Sequence[Reference]
) -> list[tuple[Reference | Place, _Fields]]:
    """The reference of each source, and the fields of its descriptor as far as they are given.

    Raises UsageError where it is not clear in which repository a digest is.
    """
    parsed = [_parse_source(text) for text in texts]
    named = [*targets, *(one for one in parsed if isinstance(one, Reference))]
    repositories = {one.name: one for one in named}
    found: list[tuple[Reference | Place, _Fields]] = []
    for one in parsed:
        if isinstance(one, Reference | Place):
            found.append((one, {}))
        elif len(repositories) == 1:
            home = next(iter(repositories.values()))
            found.append((home.at(Digest.parse(str(one["digest"]))), one))
        else:
            raise UsageError(
                f"in which repository {one['digest']} is, is not clear:"
                f" {', '.join(sorted(repositories)) or 'none is named'}",
                code="image-ambiguous",
                hint="write it as NAME@DIGEST",
            )
    return found


def _parse_source(text: str) -> Reference | Place | _Fields:
    if text.startswith("{"):
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise UsageError(
                f"not the JSON of a descriptor: {text[:80]!r} ({error})", code="descriptor-invalid"
            ) from None
        if not isinstance(fields.get("digest"), str):
            raise UsageError(
                f"a descriptor without digest: {text[:80]!r}", code="descriptor-invalid"
            )
        return cast(_Fields, fields)
    if text.startswith(("sha256:", "sha512:")):
        return {"digest": str(Digest.parse(text))}
    place = parse_place(text)
    return place.remote or place


def _inspect_source(
    remotes: OpenRepositories, name: Reference | Place, given: _Fields
) -> Inspection:
    if isinstance(name, Place):
        return _inspection(name, remotes.places.open(name))
    found = inspect_image(remotes(name), name)
    if given.get("size") not in (None, 0, found.descriptor.size):
        raise UsageError(
            f"{name.digest} has {found.descriptor.size} bytes, its descriptor says {given['size']}",
            code="descriptor-invalid",
        )
    if not given:
        return found
    stated = {**given, **found.descriptor.plain.to_json()}
    return replace(found, given=Descriptor.from_json(stated))


class OpenRepositories:
    """Repositories by name, opened once and closed with the stack."""

    def __init__(self, stack: ExitStack) -> None:
        from shipline.registry import Client

        self._client = stack.enter_context(Client.of(os.environ))
        self.places = Places(stack, self._client, os.environ)
        self._opened: dict[str, RemoteRepository] = {}

    def __call__(self, reference: Reference) -> RemoteRepository:
        if reference.name not in self._opened:
            self._opened[reference.name] = self._client.repository(reference)
        return self._opened[reference.name]


def _append(
    remotes: OpenRepositories, name: Reference, write: Callable[[Sequence[Inspection]], _NewImage]
) -> _NewImage:
    """Move the tag to what `write` makes of its image, again where another writer moved it
    meanwhile.
    """
    repository = remotes(name).unmirrored
    for _ in attempts():
        existing = _existing(remotes, [name])
        new = write(existing)
        before = existing[0].descriptor.digest if existing else None
        with settling():
            swapped = repository.swap(new.target, MemoryStore(new.raw), name.tag, before)
        if swapped and any(map(new.is_in, _existing(remotes, [name]))):
            return new
    raise TagMoved(name.tag)


def _existing(remotes: OpenRepositories, targets: Iterable[Reference]) -> list[Inspection]:
    found = []
    for name in targets:
        with suppress(NotFound):
            found.append(inspect_image(remotes(name).unmirrored, name))
    return found


def _annotations(texts: Iterable[str]) -> list[Annotation]:
    """Those without a level are for the index."""
    typed = [text if ":" in text.partition("=")[0] else f"index:{text}" for text in texts]
    annotations = [annotation for text in typed for annotation in parse_annotation(text)]
    for annotation in annotations:
        if annotation.level not in (Level.INDEX, Level.MANIFEST_DESCRIPTOR):
            raise UsageError(
                f"--annotation: {annotation.key} cannot be added to an existing {annotation.level}",
                code="annotation-impossible",
                hint="write index:key=value or manifest-descriptor:key=value",
            )
    return annotations


class _NewImage(Struct, frozen=True):
    """The document to publish. `kept` are the digests in a new index, None for a source that is
    published as it is.
    """

    raw: bytes
    target: Descriptor
    kept: frozenset[Digest] | None = None

    def parts_of(self, image: Inspection) -> list[Descriptor]:
        """What it has of a source."""
        if self.kept is None:
            return [image.descriptor]
        return [one.plain for one in image.part().descriptors if one.digest in self.kept]

    def attestations_of(self, image: Inspection) -> list[Descriptor]:
        """The attestations that it has of a source."""
        found = filter(is_attestation, image.part().descriptors)
        return [one.plain for one in found if self.kept is None or one.digest in self.kept]

    def is_in(self, image: Inspection) -> bool:
        """Whether `image` is this one, or an index with all of it."""
        if image.descriptor.digest == self.target.digest:
            return True
        parts = {one.digest for one in image.part().descriptors}
        return self.kept is not None and self.kept <= parts


def _combined(
    inspected: Sequence[Inspection],
    annotations: Sequence[Annotation],
    prefer_index: bool,
    platforms: Sequence[Platform] = (),
) -> _NewImage:
    """The index of `inspected`; a single index, or image without `prefer_index`, is unchanged."""
    given = inspected[0].document if len(inspected) == 1 and not annotations else None
    is_whole = isinstance(given, Index) or (given is not None and not prefer_index)
    if given is not None and is_whole and not platforms:
        return _NewImage(given.raw, inspected[0].descriptor.plain)
    own = {one.key: one.value for one in annotations if one.level is Level.INDEX}
    index = combine(
        [image.part() for image in inspected],
        annotations=given.annotations if isinstance(given, Index) else own,
        annotate=[
            (one.platform, one.key, one.value)
            for one in annotations
            if one.level is Level.MANIFEST_DESCRIPTOR
        ],
    )
    if platforms:
        before, index = index, _of_platforms(index, platforms)
        if given is not None and is_whole and len(index.manifests) == len(before.manifests):
            return _NewImage(given.raw, inspected[0].descriptor.plain)
    index = _as_of_buildx(index, inspected)
    return _NewImage(index.raw, index.descriptor, frozenset(one.digest for one in index.manifests))


def _as_of_buildx(index: Index, inspected: Sequence[Inspection]) -> Index:
    """The index with the bytes, so the digest, that buildx gives to it: platforms are written as
    they were, which may not be normal.
    """
    document = json.loads(index.raw)
    stated = {
        one["digest"]: one["platform"]
        for image in inspected
        if isinstance(image.document, Index)
        for one in json.loads(image.document.raw)["manifests"]
        if one.get("platform")
    }
    for one in document["manifests"]:
        if one["digest"] in stated and "platform" in one:
            before = stated[one["digest"]]
            one["platform"] = {key: before[key] for key in _PLATFORM_FIELDS if before.get(key)}
    for one in (document, *document["manifests"]):
        if "annotations" in one:
            one["annotations"] = dict(sorted(one["annotations"].items()))
    parsed = parse_manifest(go_json(document).encode())
    assert isinstance(parsed, Index)
    return parsed


def _of_platforms(index: Index, platforms: Sequence[Platform]) -> Index:
    only = index.only(platforms)
    if not only.manifests:
        raise UsageError(
            f"no SOURCE is for {', '.join(map(str, platforms))}",
            code="platform-missing",
            hint=f"there are {', '.join(map(str, index.platforms))}",
        )
    return only
