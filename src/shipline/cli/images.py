"""`shipline tag`, `ls`, `delete`, `digest` and `diff`: images in registries, one at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import click

from shipline.cli.environment import authfile_option, registry_options, skopeo_options
from shipline.errors import NotFound, ShiplineError, UsageError
from shipline.oci import Descriptor, Digest, Platform, Reference, is_tag
from shipline.units import counted

if TYPE_CHECKING:
    from shipline.images import Places
    from shipline.registry import Client, RemoteRepository

_AT_ONCE = 8  # requests
_SHOWN = 20  # tags


@contextmanager
def _opened() -> Iterator[tuple[Client, Places]]:
    from shipline.images import Places
    from shipline.registry import Client

    with ExitStack() as stack:
        client = stack.enter_context(Client.of(os.environ))
        yield client, Places(stack, client, os.environ)


@click.command("tag")
@click.argument("source", metavar="SOURCE")
@click.argument("names", nargs=-1, required=True, metavar="TAG...")
@registry_options
@authfile_option
def tag(source: str, names: Sequence[str]) -> None:
    """Give an image further tags. A TAG is a tag in its repository, or a whole name.

    In another repository the image is copied, with what refers to it.
    """
    from shipline.images import CopyOptions, parse_place

    place = parse_place(source)
    if place.remote is None:
        raise UsageError(
            f"{source} is not in a registry",
            code="reference-invalid",
            hint="`shipline copy` copies it to one",
        )
    for name in names:
        is_name = ("/" in name or ":" in name) and "@" not in name
        if not (is_tag(name) or is_name) or name.startswith(("sha256:", "sha512:")):
            raise UsageError(
                f"not a tag: {name[:200]!r}",
                code="reference-invalid",
                hint="letters, digits, '_', '.' and '-', at most 128",
            )
    targets = [f"{place.name}:{name}" if is_tag(name) else name for name in names]
    parsed = [parse_place(name) for name in targets]
    with _opened() as (_, places):
        image = places.open(place)
        for target in parsed:
            options = CopyOptions(referrers=target.name != place.name)
            root, _ = places.copy(image, target, options)
            click.echo(f"{target}@{root.digest}")


@click.command("digest")
@click.argument("name", metavar="NAME")
@click.option("--platform", metavar="OS/ARCH", help="Of the image for this platform.")
@click.option("--full-ref", is_flag=True, help="Print NAME@DIGEST.")
@registry_options
@skopeo_options
def digest(name: str, platform: str | None, full_ref: bool) -> None:
    """Print the digest of an image, in a registry or wherever `shipline copy` reads."""
    from shipline.images import parse_place

    place = parse_place(name)
    with _opened() as (_, places):
        image = places.open(place)
        target = image.select([Platform.parse(platform)]) if platform else image.root
        found = target.digest
    click.echo(f"{place.name}@{found}" if full_ref else str(found))


@click.command("ls")
@click.argument("name", metavar="HOST | REPOSITORY")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as registries do.")
@registry_options
@skopeo_options
def ls(name: str, as_json: bool) -> None:
    """List the tags of a repository, layout or archive, or the repositories of a registry.

    HOST has a dot, a port, or a slash at the end; HOST/PREFIX/ lists what is below the prefix. Not
    every registry lists its repositories: Docker Hub, for one, does not.
    """
    from shipline.images import PlaceKind, parse_place

    text = name.removeprefix("docker://")
    local = text.partition(":")[0] in set(PlaceKind) - {PlaceKind.REGISTRY}
    with _opened() as (client, places):
        if not local and (text.endswith("/") or ("/" not in text and _is_host(text))):
            host, _, prefix = text.partition("/")
            every = (one for one in client.repositories(host) if one.startswith(prefix))
            found = sorted(filter(str.isprintable, every))
            document: dict[str, object] = {"repositories": found}
        else:
            place = parse_place(name)
            found = places.tags(place)
            document = {"name": place.remote.repository if place.remote else place.name}
            document["tags"] = found
    click.echo(json.dumps(document) if as_json else "\n".join(found), nl=as_json or bool(found))


def _is_host(text: str) -> bool:
    return "." in text or text == "localhost" or text.rpartition(":")[2].isdigit()


@click.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--referrers", is_flag=True, help="With a digest: also signatures and attestations.")
@click.option("--force", is_flag=True, help="Delete a digest although tags point to it.")
@registry_options
@skopeo_options
def delete(names: Sequence[str], referrers: bool, force: bool) -> None:
    """Remove tags (NAME:TAG) or manifests (NAME@DIGEST, with all their tags) from registries.

    Blobs stay until the registry collects its garbage.
    """
    from shipline.images import parse_place

    places = [parse_place(name) for name in names]
    for place, name in zip(places, names, strict=True):
        if place.remote is None:
            raise UsageError(
                f"{name} is not in a registry",
                code="reference-invalid",
                hint="remove the file or directory",
            )
        if not (place.remote.digest or ":" in name.rpartition("/")[2]):
            raise UsageError(
                f"{name} has no tag",
                code="reference-invalid",
                hint=f"write {place.remote.name}:TAG",
            )
    with _opened() as (client, _):
        for place in places:
            assert place.remote is not None
            _delete(client.repository(place.remote).unmirrored, place.remote, referrers, force)


def _delete(
    repository: RemoteRepository, name: Reference, with_referrers: bool, force: bool
) -> None:
    from shipline.errors import RegistryError

    if name.digest is None:
        try:
            repository.delete(name.tag)
        except RegistryError as error:
            if error.status in (400, 405):
                found = repository.resolve(name.tag)
                others = [one for one in _tags_of(repository, found.digest) if one != name.tag]
                also = f", with its other tags {_some(others)}" if others else ""
                error.hint = (
                    "the registry deletes no tags, or nothing; to delete the manifest"
                    f"{also}: `shipline delete --force {name.name}@{found.digest}`"
                )
            raise
        click.echo(f"deleted {name}")
        return
    target = repository.resolve(str(name.digest))
    tags = _tags_of(repository, name.digest)
    if tags and not force:
        raise UsageError(
            f"{name.name}@{name.digest} has {counted(len(tags), 'tag')}: {_some(tags)}",
            code="image-ambiguous",
            hint="--force deletes the manifest, and these tags with it",
        )
    attached = _attached(repository, target)
    repository.delete(str(name.digest))  # first: a registry may refuse, and the image then stays
    click.echo(f"deleted {name.name}@{name.digest}" + (f" ({_some(tags)})" if tags else ""))
    if attached and not with_referrers:
        click.echo(
            f"{counted(len(attached), 'referrer')} of it stays: {', '.join(map(str, attached))}",
            err=True,
        )
        return
    for number, one in enumerate(attached):
        try:
            with suppress(NotFound):  # some registries delete them with their subject
                repository.delete(str(one))
        except ShiplineError as error:
            left = ", ".join(map(str, attached[number:]))
            error.add_note(
                f"{name.name}@{name.digest} is deleted, what referred to it stays: {left}"
            )
            raise
        click.echo(f"deleted {one}, which refers to it")


def _some(tags: Sequence[str]) -> str:
    """The first tags of a list, and how many others there are."""
    shown = ", ".join(sorted(tags)[:_SHOWN])
    return f"{shown} and {len(tags) - _SHOWN} more" if len(tags) > _SHOWN else shown


def _attached(repository: RemoteRepository, target: Descriptor) -> list[Digest]:
    """What refers to `target`, and to what does, each after what it refers to."""
    from shipline.supply import attached_tags

    found = [target]
    for subject in found:  # which grows meanwhile
        new = list(repository.referrers(subject))
        for tag in attached_tags(subject):
            with suppress(NotFound):
                new.append(repository.resolve(tag))
        known = {one.digest for one in found}
        found += {one.digest: one for one in new if one.digest not in known}.values()
    return [one.digest for one in found[1:]]


def _tags_of(repository: RemoteRepository, wanted: Digest) -> list[str]:
    """The tags that point to a digest; every tag is asked for."""
    from shipline.tasks import TaskGroup

    def points_there(tag: str) -> bool:
        try:
            found = repository.digest_of(tag) or repository.resolve(tag).digest
        except NotFound:  # another client has removed it
            return False
        return found == wanted

    with TaskGroup(_AT_ONCE) as group:
        tasks = {tag: group.start(points_there, tag) for tag in repository.tags()}
    return [tag for tag, task in tasks.items() if task.result()]


@click.command("diff")
@click.argument("first", metavar="OLD")
@click.argument("second", metavar="NEW")
@click.option("--platform", metavar="OS/ARCH", help="Compare these images (default: of this host).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@registry_options
def diff(first: str, second: str, platform: str | None, as_json: bool) -> None:
    """Show what two images differ in: sizes, layers, files, configuration, packages.

    Times of files do not count. The exit status is 0, whether they differ or not.
    """
    from shipline.images import parse_place
    from shipline.images.differences import describe_changes, difference
    from shipline.units import shown_size

    pair = parse_place(first), parse_place(second)
    wanted = Platform.parse(platform) if platform else Platform.local()
    with _opened() as (_, places):
        found = difference(places.open(pair[0]), places.open(pair[1]), wanted)
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    before, after = found.bytes
    click.echo(f"layers: {shown_size(before)} => {shown_size(after)}")
    for sign, digests in zip("-+", found.layers, strict=True):
        for one in digests:
            click.echo(f"{sign} {one}")
    for title, changes in (
        ("files", found.files or {}),
        ("configuration", found.config),
        ("packages", found.packages or {}),
    ):
        if changes:
            click.echo(f"{title}:")
            for line in describe_changes(changes):
                click.echo(line)
    if found.packages is None:
        click.echo("packages are not compared: that takes an SBOM of each image", err=True)
