"""Annotations: where they are written, from the notations of flags and of output attributes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from shipline.build.request import Annotation, Level
from shipline.errors import UsageError
from shipline.oci import Platform

_PLACE = re.compile(r"([a-z-]+)(?:\[([A-Za-z0-9_/.-]+)\])?\Z")
_ATTRIBUTE = re.compile(r"annotation(?:-([a-z-]+))?(?:\[([a-z0-9_/.-]+)\])?\.(\S+)\Z")
_OF_INDEX = (Level.INDEX, Level.INDEX_DESCRIPTOR)


def parse_annotation(text: str) -> tuple[Annotation, ...]:
    """`[type[platform],type...:]key=value`, the type being `manifest` where none is said.

    Raises UsageError that names --annotation.
    """
    name, equals, value = text.partition("=")
    levels, colon, key = name.partition(":")
    if not colon:
        levels, key = "manifest", name
    if not equals or not key:
        raise UsageError(f"--annotation: {text!r} is not key=value")
    found = []
    for place in levels.split(","):
        match = _PLACE.match(place)
        if match is None:
            raise _misplaced("--annotation", place)
        found.append(_annotation("--annotation", match[1], match[2], key, value))
    return tuple(found)


def attribute_annotations(attributes: Mapping[str, str]) -> tuple[Annotation, ...]:
    """Those among the attributes of an output: `annotation[-type][[platform]].key`.

    Raises UsageError for one that cannot be read.
    """
    found = []
    for name, value in attributes.items():
        if not is_annotation(name):
            continue
        match = _ATTRIBUTE.match(name)
        if match is None:
            raise UsageError(f"--output: {name!r} is not annotation[-TYPE][[PLATFORM]].KEY")
        found.append(_annotation("--output", match[1] or "manifest", match[2], match[3], value))
    return tuple(found)


def is_annotation(attribute: str) -> bool:
    """Whether an attribute of an output is an annotation, or tries to be."""
    return attribute.startswith("annotation")


def annotations_at(
    annotations: Iterable[Annotation], level: Level, platform: Platform | None = None
) -> dict[str, str]:
    """Those of one document or descriptor; the ones for its platform win over those for all."""
    found = [one for one in annotations if one.level is level]
    general = {one.key: one.value for one in found if one.platform is None}
    own = {one.key: one.value for one in found if platform and one.platform == platform}
    return general | own


def check_annotations(annotations: Iterable[Annotation], platforms: Iterable[Platform]) -> None:
    """Raises UsageError where the image for `platforms` has no such place."""
    wanted = tuple(platforms)
    for one in annotations:
        if one.platform is not None and one.platform not in wanted:
            raise UsageError(
                f"there is no image for {one.platform} to annotate",
                hint=f"the build is for {', '.join(map(str, wanted))}",
            )
        if one.level in _OF_INDEX and len(wanted) == 1:
            raise UsageError(
                f"the annotation {one.key} is for an index, which an image of one platform has not",
                hint="annotate the manifest, or build for several platforms",
            )


def _annotation(what: str, level: str, platform: str | None, key: str, value: str) -> Annotation:
    if level not in list(Level):
        raise _misplaced(what, level)
    if platform and Level(level) in _OF_INDEX:
        raise UsageError(f"{what}: an index is for all platforms, not for {platform}")
    return Annotation(Level(level), key, value, Platform.parse(platform) if platform else None)


def _misplaced(what: str, place: str) -> UsageError:
    return UsageError(
        f"{what}: {place!r} is not a place for an annotation",
        hint=f"it is one of {', '.join(Level)}",
    )
