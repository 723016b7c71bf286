"""Editions: one result, written for different readers.

Outputs may want other compression, other media types, other annotations. What they have in common
is built once; layers that do not suit an edition are compressed anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shipline.build.annotating import annotations_at, attribute_annotations, check_annotations
from shipline.build.cache import Made
from shipline.build.request import Annotation, Level, Output
from shipline.build.values import parse_integer
from shipline.errors import UsageError
from shipline.layer import Codec, Layer, codec
from shipline.oci import Platform, media

_OF_IMAGES = ("image", "oci", "docker")


@dataclass(frozen=True, slots=True)
class Edition:
    """How an image is written. No `compression`: layers as they are; no `level`: whichever.

    `force`: layers of base images too; `docker`: the media types of Docker's manifest format.
    """

    compression: str = ""
    level: int | None = None
    force: bool = False
    docker: bool = False
    annotations: tuple[Annotation, ...] = ()

    @classmethod
    def of(cls, output: Output, annotations: tuple[Annotation, ...] = ()) -> Edition:
        """What `output` asks for; `annotations` are those for every image.

        Raises UsageError for a compression that is not known or does not go with the media types.
        """
        if output.type not in _OF_IMAGES:
            return cls()
        attributes = output.attributes
        level = attributes.get("compression-level")
        force = output.enabled("force-compression")
        edition = cls(
            attributes.get("compression") or ("gzip" if force or level is not None else ""),
            None if level is None else parse_integer(level, "--output compression-level"),
            force,
            not output.enabled("oci-mediatypes", True),
            (*annotations, *attribute_annotations(attributes)),
        )
        codec(edition.compression or "gzip", edition.level, docker=edition.docker)
        if edition.docker and edition.annotations:
            raise UsageError(
                "Docker's manifest format has no annotations", hint="leave oci-mediatypes=false out"
            )
        return edition

    @property
    def codec(self) -> Codec:
        """What new layers are compressed with."""
        return codec(self.compression or "gzip", self.level)

    def check(self, platforms: Iterable[Platform]) -> None:
        """Raises UsageError where the edition cannot be made for `platforms`."""
        check_annotations(self.annotations, platforms)

    def takes(self, one: Codec) -> bool:
        """Whether layers made with `one` suit the edition."""
        return self._suits(one.name, one.level)

    def codec_for(self, layer: Layer, made: Made | None) -> Codec | None:
        """What `layer` is to be compressed with anew, None where it is right as it is.

        `made` is None for a layer of a base image.
        """
        name = media.compression(layer.descriptor.media_type)
        if name is None:
            return None
        if made is not None:
            return None if self._suits(name, made.level) else self.codec
        foreign = self.force and name != self.compression
        return self.codec if foreign or (self.docker and name == "zstd") else None

    def annotated(self, level: Level, platform: Platform | None = None) -> Mapping[str, str]:
        return annotations_at(self.annotations, level, platform)

    def _suits(self, name: str, level: int | None) -> bool:
        if not self.compression:
            return not (self.docker and name == "zstd")
        return name == self.compression and self.level in (None, level)


PLAIN = Edition()
"""Layers as they are, OCI media types, no annotations."""
