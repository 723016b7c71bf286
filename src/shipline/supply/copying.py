"""Copies of an image in other registries: with signatures, attestations and all that refers to it.

Everything goes by digest; what bears a name at the origin (`sha256-<hex>.sig`) is named in the copy
after its content is there. The tags of the image itself are not given here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from shipline.content import Repository, copy_graph, successors
from shipline.errors import NotFound
from shipline.oci import Descriptor, media
from shipline.supply.claims import Attachable

_ATTACHED = ("sig", "att", "sbom")
_DEPTH = 4  # of statements about statements, and of indexes in indexes


def copy_with_evidence(source: Attachable, destination: Repository, target: Descriptor) -> int:
    """Copy `target` and everything that is attached to it or to its images.

    The number of attached manifests is returned. Running it again continues a broken copy.
    """
    copy_graph(source, destination, target)
    count = 0
    for subject in _images(source, target, _DEPTH):
        count += _copy_attached(source, destination, subject, _DEPTH)
    return count


def _images(source: Attachable, target: Descriptor, depth: int) -> Iterator[Descriptor]:
    """An index and the images in it."""
    yield target
    if target.media_type in media.INDEXES and depth:
        for child in successors(source, target):
            if child.media_type in media.NAMED:
                yield from _images(source, child, depth - 1)


def _copy_attached(
    source: Attachable, destination: Repository, subject: Descriptor, depth: int
) -> int:
    count = 0
    for referrer in source.referrers(subject):
        copy_graph(source, destination, referrer.plain)
        count += 1
        if depth:
            count += _copy_attached(source, destination, referrer.plain, depth - 1)
    for suffix in _ATTACHED:
        tag = f"{subject.digest.algorithm}-{subject.digest.hex}.{suffix}"
        with suppress(NotFound):
            found = source.resolve(tag)
            copy_graph(source, destination, found)
            destination.tag(found, source, tag)
            count += 1
    return count
