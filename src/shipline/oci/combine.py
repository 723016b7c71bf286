"""Several images under one index: their manifests side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from shipline.oci import media
from shipline.oci.descriptor import NO_ANNOTATIONS, Descriptor
from shipline.oci.digest import Digest
from shipline.oci.manifest import Index, Manifest
from shipline.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Part:
    """A document to combine; `platform` is that of a single image, from its configuration."""

    document: Manifest | Index
    platform: Platform | None = None

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        if isinstance(self.document, Index):
            return self.document.manifests
        return (replace(self.document.descriptor, platform=self.platform),)


def combine(
    parts: Iterable[Part],
    *,
    annotations: Mapping[str, str] = NO_ANNOTATIONS,
    annotate: Iterable[tuple[Platform | None, str, str]] = (),
) -> Index:
    """One index of all manifests of `parts`, in their order, each digest once.

    `annotations` are those of the index; `annotate` holds (platform or None for all, key, value)
    for descriptors. The index is a Docker manifest list where all it names is Docker's and nothing
    is annotated, which that type has no place for.
    """
    annotate = tuple(annotate)
    found: dict[Digest, Descriptor] = {}
    for one in (descriptor for part in parts for descriptor in part.descriptors):
        known = found.setdefault(one.digest, one)
        found[one.digest] = replace(
            known,
            platform=known.platform or one.platform,
            annotations={**known.annotations, **one.annotations},
        )
    manifests = [_annotated(one, annotate) for one in found.values()]
    docker = all(
        one.media_type == media.DOCKER_MANIFEST and not one.annotations for one in manifests
    )
    media_type = media.DOCKER_INDEX if docker and not annotations else media.OCI_INDEX
    return Index.make(manifests, media_type=media_type, annotations=annotations)


def _annotated(
    one: Descriptor, annotate: tuple[tuple[Platform | None, str, str], ...]
) -> Descriptor:
    more = {key: value for platform, key, value in annotate if platform in (None, one.platform)}
    return replace(one, annotations={**one.annotations, **more})
