"""What `docker buildx imagetools inspect` shows of an image: the fields of templates, and text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from shipline.cli.go_types import GoTypes
from shipline.cli.template_functions import NIL, GoMap, GoStruct
from shipline.content import Fetcher, Repository, fetch_all, fetch_document, fetch_image
from shipline.errors import ContentError
from shipline.images import Place
from shipline.oci import (
    CONFIG_LIMIT,
    REFERENCE_DIGEST,
    Descriptor,
    Index,
    Manifest,
    Part,
    Platform,
    Reference,
    media,
)

_SLSA, _SPDX = "https://slsa.dev/provenance/", "https://spdx.dev/Document"

_TYPES = GoTypes(
    Descriptor="""
        MediaType    string            mediaType
        Digest       digest.Digest     digest
        Size         int               size
        URLs         []string          urls,omitempty
        Annotations  map[string]string annotations,omitempty
        Data         []any             data,omitempty
        Platform     *Platform         platform,omitempty
        ArtifactType string            artifactType,omitempty
    """,
    Platform="""
        Architecture string   architecture
        OS           string   os
        OSVersion    string   os.version,omitempty
        OSFeatures   []string os.features,omitempty
        Variant      string   variant,omitempty
    """,
    Index="""
        SchemaVersion int               schemaVersion
        MediaType     string            mediaType,omitempty
        Digest        digest.Digest     digest
        Size          int               size
        Manifests     []Descriptor      manifests
        Annotations   map[string]string annotations,omitempty
    """,
    Image="""
        Created  *time.Time  created,omitempty
        Author   string      author,omitempty
        Platform Platform
        Config   ImageConfig config
        RootFS   RootFS      rootfs
        History  []History   history,omitempty
    """,
    ImageConfig="""
        User         string              User,omitempty
        ExposedPorts map[string]struct{} ExposedPorts,omitempty
        Env          []string            Env,omitempty
        Entrypoint   []string            Entrypoint,omitempty
        Cmd          []string            Cmd,omitempty
        Volumes      map[string]struct{} Volumes,omitempty
        WorkingDir   string              WorkingDir,omitempty
        Labels       map[string]string   Labels,omitempty
        StopSignal   string              StopSignal,omitempty
        ArgsEscaped  bool                ArgsEscaped,omitempty
    """,
    RootFS="""
        Type    string          type
        DiffIDs []digest.Digest diff_ids
    """,
    History="""
        Created    *time.Time created,omitempty
        CreatedBy  string     created_by,omitempty
        Author     string     author,omitempty
        Comment    string     comment,omitempty
        EmptyLayer bool       empty_layer,omitempty
    """,
    Provenance="SLSA any SLSA,omitempty",
    SBOM="""
        SPDX            any   SPDX,omitempty
        AdditionalSPDXs []any AdditionalSPDXs,omitempty
    """,
)
"""What templates see: image-spec's specs-go/v1 and buildx's util/imagetools."""

Statements = Iterator[tuple[str, Mapping[str, Any] | str]]
"""Predicates with their types."""


class Inspection(Struct, frozen=True):
    """An image or index with its reference, and the repository with its parts. `given` is the
    descriptor that it was given by, if any.
    """

    reference: Reference | Place
    descriptor: Descriptor
    document: Manifest | Index
    repository: Fetcher
    given: Descriptor | None = None

    def part(self) -> Part:
        """The part for an index; a single image has its platform."""
        if isinstance(self.document, Index):
            return Part(self.document)
        platform = self.given.platform if self.given else None
        if platform is None or not (platform.os and platform.architecture):
            own = _platform(self._config(self.document))
            platform = _filled(platform, own) if platform and own else own
        return Part(self.document, platform, self.given)

    def fields(self, name: str = "") -> dict[str, Any]:
        """The fields of templates, `name` as it was given; Image, Provenance and SBOM are fetched
        on use.
        """
        return GoStruct(
            {
                "Name": name or str(self.reference),
                "Manifest": self._manifest(),
                "Image": self._image,
                "Provenance": lambda: self._attested("Provenance", _provenance),
                "SBOM": lambda: self._attested("SBOM", _sbom),
            },
            json={"name": "Name", "manifest": "Manifest", "image": "Image"},
        )

    def _manifest(self) -> object:
        value = self.descriptor.plain.to_json()
        if not isinstance(self.document, Index):
            return _TYPES.read("Descriptor", value)
        return _TYPES.read("Index", {**value, **json.loads(self.document.raw)})

    def _image(self) -> object:
        """The configuration; for an index of several platforms by platform, each fetched on use."""
        if isinstance(self.document, Manifest):
            return _TYPES.read("Image", self._config(self.document))
        found = {
            platform: partial(self._image_of, entry) for platform, entry in self._images().items()
        }
        return GoMap(found, zero=NIL) if len(found) > 1 else next(iter(found.values()), NIL)

    def _image_of(self, entry: Descriptor) -> object:
        return _TYPES.read("Image", self._config(fetch_image(self.repository, entry)))

    def _attested(self, type_: str, select: Callable[[Statements], dict[str, Any]]) -> object:
        """What `select` returns for the statements about each image; for an index of several
        platforms by platform.
        """
        images = self._images()
        found = {
            platform: _TYPES.read(type_, selected)
            for platform, image in images.items()
            if (selected := select(self._statements(image)))
        }
        zero = _TYPES.read(type_, None)
        if len(images) > 1:
            return GoMap(found, zero=zero)
        return next(iter(found.values()), zero)

    def _images(self) -> dict[str, Descriptor]:
        """The images of an index by platform."""
        entries = self.document.manifests if isinstance(self.document, Index) else ()
        found = {
            str(one.platform or _platform(self._config(fetch_image(self.repository, one)))): one
            for one in entries
            if one.media_type in media.MANIFESTS and REFERENCE_DIGEST not in one.annotations
        }
        return dict(sorted(found.items()))

    def _statements(self, image: Descriptor) -> Statements:
        """The predicates about `image`, with their types."""
        from shipline.supply import Statement, stored_statements  # slow to import

        assert isinstance(self.document, Index)
        for kind, raw in stored_statements(self.repository, self.document, image):
            yield kind, Statement.parse(raw).predicate

    def _config(self, manifest: Manifest) -> dict[str, Any]:
        raw = fetch_all(self.repository, manifest.config, CONFIG_LIMIT)
        try:
            document = json.loads(raw)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ContentError(
                f"{manifest.config.digest} is not an image configuration", code="image-invalid"
            )
        return document


def _provenance(statements: Statements) -> dict[str, Any]:
    found = [predicate for kind, predicate in statements if kind.startswith(_SLSA)]
    return {"SLSA": found[0]} if found else {}


def _sbom(statements: Statements) -> dict[str, Any]:
    """The list of the image's own packages, and those of stages and contexts."""
    found = [predicate for kind, predicate in statements if kind == _SPDX]
    return {"SPDX": found[0], "AdditionalSPDXs": found[1:]} if found else {}


def inspect_image(repository: Repository, reference: Reference) -> Inspection:
    """The image at `reference`. Raises NotFound."""
    reference = reference.or_latest
    target = repository.resolve(str(reference.digest or reference.tag))
    return Inspection(reference, target, fetch_document(repository, target), repository)


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
        stated = json.loads(inspected.document.raw)["manifests"]
        entries = zip(inspected.document.manifests, stated, strict=True)
        for number, (entry, fields) in enumerate(entries):
            rows += [("", "")] if number else []
            rows += [
                (f"  {name}:", value) for name, value in _entry(inspected.reference, entry, fields)
            ]
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


def _entry(
    reference: Reference | Place, child: Descriptor, stated: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The rows of an entry; its platform is written as `stated`, which may not be normal."""
    tag = f":{reference.tag}" if reference.tag else ""
    yield "Name", f"{reference.name}{tag}@{child.digest}"
    yield "MediaType", child.media_type
    if (platform := child.platform) is not None:
        words = (stated["platform"].get(key) for key in ("os", "architecture", "variant"))
        yield "Platform", "/".join(filter(None, words))
        if platform.os_version:
            yield "OSVersion", platform.os_version
        if platform.os_features:
            yield "OSFeatures", ", ".join(platform.os_features)
        if child.urls:
            yield "URLs", ", ".join(child.urls)


def _filled(stated: Platform, own: Platform) -> Platform:
    """The platform that a descriptor states, with what it lacks from the configuration."""
    given = {key: value for key, value in stated.to_json().items() if value}
    return Platform.from_json({**own.to_json(), **given})


def _platform(config: dict[str, Any]) -> Platform | None:
    """None for an artifact, which has no image configuration."""
    return Platform.from_json(config) if config.get("os") and config.get("architecture") else None
