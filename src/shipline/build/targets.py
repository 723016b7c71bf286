"""What a request comes to: the platforms, the editions of the result, and who gets which."""

from __future__ import annotations

from collections.abc import Iterable

from shipline.build.editions import PLAIN, Edition
from shipline.build.images import Repositories
from shipline.build.outputs import names_of
from shipline.build.request import BuildRequest, Output
from shipline.build.uploads import Target
from shipline.build.values import parse_boolean
from shipline.errors import UsageError
from shipline.oci import Platform, Reference


def platforms_of(request: BuildRequest) -> tuple[Platform, ...]:
    """The platforms to build for, each once; that of this machine where none was asked for."""
    return tuple(dict.fromkeys(request.platforms or (Platform.local(),)))


def indexed(request: BuildRequest) -> bool:
    """Whether the result is an index; BUILDKIT_MULTI_PLATFORM asks for one of a single image.

    Raises UsageError where it forbids one for several.
    """
    several = len(platforms_of(request)) > 1
    text = request.build_args.get("BUILDKIT_MULTI_PLATFORM", "")
    wanted = parse_boolean(text, "BUILDKIT_MULTI_PLATFORM") if text else several
    if several and not wanted:
        raise UsageError(
            "BUILDKIT_MULTI_PLATFORM forbids an index, and several platforms are asked for",
            hint="leave it out, or ask for one platform",
        )
    return wanted


def edition_of(output: Output, request: BuildRequest) -> Edition:
    """What `output` wants. Raises UsageError where that cannot be."""
    return Edition.of(output, request.annotations)


def editions_of(request: BuildRequest) -> tuple[Edition, ...]:
    """What all outputs want, each once; those that are pushed come first, and new layers are made
    for the first. Raises UsageError for an edition that cannot be.
    """
    outputs = sorted(request.outputs, key=lambda one: not one.pushes)
    editions = tuple(dict.fromkeys(edition_of(one, request) for one in outputs))
    for edition in editions:
        edition.check(platforms_of(request))
    pushed = [edition for edition in editions[:1] if request.push]
    rest = [edition for edition in editions if edition not in pushed]
    return (*pushed, *sorted(rest, key=lambda one: not one.compression)) or (PLAIN,)


def targets_of(request: BuildRequest, repositories: Repositories) -> tuple[Target, ...]:
    """Where to push: for each output, its repositories with their tags.

    Raises UsageError where a name is missing, or stands where none can be given.
    """
    found: list[Target] = []
    for output in request.outputs:
        if not output.pushes:
            continue
        names = names_of(output, request)
        if not names:
            raise UsageError("a tag is needed when pushing", hint="name the image with -t")
        edition = edition_of(output, request)
        for group in _grouped(names):
            first = group[0]
            repository = repositories(first)
            tags = _tags(output, group)
            found.append(Target(first.host, first.repository, repository, edition, tags))
    _refuse_clashes(found)
    return tuple(found)


def _refuse_clashes(targets: Iterable[Target]) -> None:
    seen: dict[str, Edition] = {}
    for target in targets:
        for tag in target.tags:
            name = f"{target}:{tag}"
            if seen.setdefault(name, target.edition) != target.edition:
                raise UsageError(f"two outputs give the name {name} to different images")


def _grouped(names: Iterable[Reference]) -> list[list[Reference]]:
    found: dict[str, list[Reference]] = {}
    for name in names:
        found.setdefault(name.name, []).append(name)
    return list(found.values())


def _tags(output: Output, names: Iterable[Reference]) -> tuple[str, ...]:
    """The tags that an output gives; none where it pushes by digest."""
    tags = tuple(name.tag or "latest" for name in names)
    if not output.enabled("push-by-digest"):
        return tags
    for tag in tags:
        if tag != "latest":
            raise UsageError(
                f"push-by-digest gives no names, but the tag {tag!r} was asked for",
                hint="name the repository alone, without a tag",
            )
    return ()
