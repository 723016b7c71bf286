"""Layers -> configuration, manifest and index, in the format of each output.

Outputs may differ in compression, media types and annotations. Everything is built once; layers
that do not fit a format are recompressed, each only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from shipline.build.attestation.manifest import AttestationManifest
from shipline.build.attributes import parse_boolean
from shipline.build.blobs import Blobs
from shipline.build.cache import Cache, LayerResult
from shipline.build.clock import Clock
from shipline.build.graph import Vertex, key_of
from shipline.build.request import Annotation, BuildRequest, Level, Output, OutputFormat
from shipline.build.stages import StageState
from shipline.content import chunks
from shipline.errors import DigestMismatch, UsageError
from shipline.events import Step
from shipline.layer import (
    Codec,
    Layer,
    codec,
    codec_of_layer,
    cut_tar,
    decompress,
    stream_layer,
    without_toc,
)
from shipline.oci import Descriptor, Hasher, History, ImageConfig, Index, Manifest, Platform, media
from shipline.tasks import Once
from shipline.values import replace

PLAIN = OutputFormat()
"""Layers as they are, OCI media types, no annotations."""

_OF_OCI = ("estargz",)
"""Compressions that Docker's manifest format cannot have."""

_OF_CACHES = ("buildkit/", "containerd.io/uncompressed", "containerd.io/distribution.source.")
"""What annotations of layers begin with that BuildKit keeps to itself."""
_REWRITTEN = "buildkit/rewritten-timestamp"
"""The annotation of a layer whose file times were limited to an epoch."""

_OF_IMAGES = ("image", "oci", "docker")
_OCI_TYPES = {docker: oci for oci, docker in media.DOCKER_LAYERS.items()}


def format_of(output: Output, request: BuildRequest) -> OutputFormat:
    """The format of `output`, with the annotations of the request; `attested` if attestations go
    into it. These need the media types of OCI, and so do eStargz and annotations outside of
    manifests.
    """
    if output.type not in _OF_IMAGES:
        return PLAIN
    own = output.format
    notes = (*request.annotations, *own.annotations)
    plain = all(one.level is Level.MANIFEST for one in notes) and own.compression not in _OF_OCI
    format = replace(own, annotations=notes, docker=own.docker and plain)
    stated = request.provenance
    required = request.sbom is not None or (stated is not None and not stated.inline_only)
    if output.type != "docker" and (required or (stated is not None and format.inline)):
        return replace(format, attested=True, inline=True, docker=False)
    return replace(format, artifact=True, inline=True)


def formats_of(request: BuildRequest) -> tuple[OutputFormat, ...]:
    """The formats of all outputs, each once, pushed ones first; new layers are compressed for the
    first. Raises UsageError for a format that is not possible.
    """
    outputs = sorted(request.outputs, key=lambda one: not one.push)
    formats = tuple(dict.fromkeys(format_of(one, request) for one in outputs))
    for one in formats:
        codec_of(one)
        _check_annotations(one, request.target_platforms)
    pushed = formats[:1] if request.push else ()
    rest = [one for one in formats if one not in pushed]
    return (*pushed, *sorted(rest, key=lambda one: not one.compression)) or (PLAIN,)


def _check_annotations(wanted: OutputFormat, platforms: Sequence[Platform]) -> None:
    for one in wanted.annotations:
        if one.platform is not None and one.platform not in platforms:
            raise UsageError(
                f"there is no image for {one.platform} to annotate",
                code="annotation-impossible",
                hint=f"the build is for {', '.join(map(str, platforms))}",
            )
        if one.level.of_index and len(platforms) == 1 and not wanted.attested:
            raise UsageError(
                "index annotations not supported for single platform export, which has no index:"
                f" {one.key}",
                code="annotation-impossible",
                hint="annotate the manifest, or build for several platforms",
            )


def wants_index(request: BuildRequest) -> bool:
    """Whether the result is an index; BUILDKIT_MULTI_PLATFORM=1 makes one for a single image, too.

    Raises UsageError where it forbids an index for several images.
    """
    several = len(request.target_platforms) > 1
    text = request.build_args.get("BUILDKIT_MULTI_PLATFORM", "")
    wanted = parse_boolean(text, "BUILDKIT_MULTI_PLATFORM") if text else several
    if several and not wanted:
        raise UsageError(
            "BUILDKIT_MULTI_PLATFORM forbids an index, but the build is for several platforms",
            code="annotation-impossible",
            hint="remove it, or build for one platform",
        )
    return wanted


def codec_of(wanted: OutputFormat) -> Codec:
    """The codec for new layers. Raises UsageError for an unknown compression, and for one that is
    not possible with the media types.
    """
    codec(wanted.compression or "gzip", wanted.level, docker=wanted.docker)
    return codec(wanted.compression or "gzip", wanted.level)


def fits(wanted: OutputFormat, compression: str, level: int | None) -> bool:
    """Whether new layers with this compression fit the format."""
    if not wanted.compression:
        return not (wanted.docker and compression in _OF_OCI)
    return compression == wanted.compression and wanted.level in (None, level)


def codec_for(wanted: OutputFormat, layer: Layer, result: LayerResult | None) -> Codec | None:
    """The codec to recompress `layer` with; None if it fits the format.

    `result` is None for a layer of a base image.
    """
    made_by = codec_of_layer(layer.descriptor)
    if made_by is None:
        return None
    if result is not None:
        return None if fits(wanted, made_by.name, result.level) else codec_of(wanted)
    foreign = wanted.force and made_by.name != wanted.compression
    return codec_of(wanted) if foreign else None


class Recoder:
    """Recompresses layers for a format, and keeps the results. Safe to use from any thread."""

    def __init__(self, blobs: Blobs, cache: Cache, step: Step) -> None:
        self._blobs = blobs
        self._cache = cache
        self._step = step
        self._once: Once[Layer] = Once()

    def recode(self, layer: Layer, result: LayerResult | None, wanted: OutputFormat) -> Layer:
        """The layer in the format `wanted`; `result` is None for a layer of a base image.

        Raises ContentError, RegistryError where the layer cannot be read.
        """
        codec = codec_for(wanted, layer, result)
        if codec is None:
            return layer
        key = key_of(
            "recoded/1",
            diff_id=str(layer.diff_id),
            compression=codec.name,
            level=codec.level,
            docker=codec.docker,
        )
        recoded = self._once.get(key, lambda: self._recoded(key, layer, codec))
        return replace(recoded, windows=layer.windows)

    def _recoded(self, key: str, layer: Layer, codec: Codec) -> Layer:
        if found := self._cache.get(key):
            return found.layer
        name = f"compress {layer.descriptor.digest.short} as {codec.name}"
        with self._step.step(name, kind="internal", size=layer.descriptor.size):
            recoded = self._compress(layer, codec)
        self._cache.put(key, LayerResult(recoded, "", codec.level))
        return recoded

    def _compress(self, layer: Layer, codec: Codec) -> Layer:
        before, made_by = (
            media.compression(layer.descriptor.media_type),
            codec_of_layer(layer.descriptor),
        )
        assert before is not None and made_by is not None
        with self._blobs.fetch(layer.descriptor) as blob, self._blobs.store.ingest() as ingest:
            tar = chunks(decompress(blob, before))
            if codec.indexed or made_by.indexed:
                seen = Hasher()
                recoded = stream_layer(cut_tar(without_toc(seen.through(tar))), ingest, codec)
                diff_id = seen.digest
            else:
                recoded = stream_layer(cut_tar(tar), ingest, codec)
                diff_id = recoded.diff_id
        if diff_id != layer.diff_id:
            raise DigestMismatch(
                expected=str(layer.diff_id),
                got=str(diff_id),
                where="the layer of a base image",
                hint="its configuration does not match its layers; rebuild that image",
            )
        return recoded


class Image(Struct, frozen=True):
    """The image for one platform, without the bytes of its layers."""

    platform: Platform
    config: ImageConfig
    config_bytes: bytes
    config_descriptor: Descriptor
    manifest: Manifest
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """Bytes of layers and configuration, as they are stored."""
        return self.config_descriptor.size + sum(one.descriptor.size for one in self.layers)


class Assembled(Struct, frozen=True):
    """The result in one format. `descriptor` is that of `root`, with its annotations."""

    images: tuple[Image, ...]
    root: Index | Manifest
    descriptor: Descriptor
    attestations: tuple[AttestationManifest, ...] = ()

    @property
    def documents(self) -> dict[Descriptor, bytes]:
        """The documents of the result, without layers; children first."""
        found: dict[Descriptor, bytes] = {}
        for image in self.images:
            found[image.config_descriptor] = image.config_bytes
            found[image.manifest.descriptor] = image.manifest.raw
        for one in self.attestations:
            found |= one.documents
        return {**found, self.root.descriptor: self.root.raw}


def assemble(
    stage: StageState,
    layers: Iterable[Layer],
    created: Callable[[Vertex], str],
    clock: Clock,
    format: OutputFormat = PLAIN,
) -> Image:
    """The image for one platform; `layers` are in `format`, `created` returns when the layer of a
    step was made (RFC 3339).

    With SOURCE_DATE_EPOCH, the time of the clock replaces every time that this build adds.
    """
    layers = tuple(layers)
    epoch = clock.now() if clock.epoch is not None else ""
    history = _history(stage, created, epoch)
    latest = history[-1].created if history else ""
    config = replace(
        stage.image,
        diff_ids=tuple(layer.diff_id for layer in layers),
        history=history,
        created=epoch or latest or stage.image.created or clock.now(),
    )
    platform = stage.target or config.platform
    raw = config.to_bytes()
    descriptor = Descriptor.of(raw, media.DOCKER_CONFIG if format.docker else media.OCI_CONFIG)
    of_base = len(stage.image.diff_ids)
    dated = {_REWRITTEN: str(clock.epoch)} if clock.clamp and not format.docker else {}
    manifest = Manifest.make(
        descriptor,
        [
            _listed(layer.descriptor, format, dated if number >= of_base else {})
            for number, layer in enumerate(layers)
        ],
        media_type=media.DOCKER_MANIFEST if format.docker else media.OCI_MANIFEST,
        annotations=annotations_at(format.annotations, Level.MANIFEST, platform),
        indented=True,
    )
    return Image(platform, config, raw, descriptor, manifest, layers)


def _history(
    stage: StageState, created: Callable[[Vertex], str], epoch: str
) -> tuple[History, ...]:
    """The history of the base and of this build. An entry without a layer has the time of the layer
    before it, or of the first layer, so that equal builds make equal documents.
    """
    times = [epoch or (created(note.vertex) if note.vertex else "") for note in stage.notes]
    time = next(filter(None, times), stage.image.created)
    entries = []
    for note, own in zip(stage.notes, times, strict=True):
        time = own or time
        empty = note.vertex is None
        entries.append(History(time, note.text, comment=note.comment, empty_layer=empty))
    return (*stage.image.history, *entries)


def combine(
    images: Sequence[Image],
    format: OutputFormat = PLAIN,
    *,
    indexed: bool = False,
    attestations: Sequence[AttestationManifest] = (),
) -> Assembled:
    """An index of the images of all platforms, in their order, and then of their attestations; a
    single image has one only if it is to be `indexed`, or has attestations.
    """

    def described(image: Image) -> Descriptor:
        notes = annotations_at(format.annotations, Level.MANIFEST_DESCRIPTOR, image.platform)
        return replace(image.manifest.descriptor, annotations=notes, platform=image.platform)

    if len(images) == 1 and not indexed and not attestations:
        return Assembled(tuple(images), images[0].manifest, described(images[0]))
    entries = map(described, images)
    index = Index.make(
        [*entries, *(one.descriptor for one in attestations)],
        media_type=media.DOCKER_INDEX if format.docker else media.OCI_INDEX,
        annotations=annotations_at(format.annotations, Level.INDEX),
        indented=True,
    )
    notes = annotations_at(format.annotations, Level.INDEX_DESCRIPTOR)
    described_index = replace(index.descriptor, annotations=notes)
    return Assembled(tuple(images), index, described_index, tuple(attestations))


def annotations_at(
    annotations: Iterable[Annotation], level: Level, platform: Platform | None = None
) -> Mapping[str, str]:
    """The annotations of one document or descriptor; those for its platform win."""
    found = [one for one in annotations if one.level is level]
    general = {one.key: one.value for one in found if one.platform is None}
    own = {one.key: one.value for one in found if platform and one.platform == platform}
    return general | own


def _listed(layer: Descriptor, format: OutputFormat, added: Mapping[str, str]) -> Descriptor:
    """A layer as a manifest lists it: with its annotations, such as the digest of its table of
    contents, but those that only a cache has, and with `added`; Docker's format has none.
    """
    types = media.DOCKER_LAYERS if format.docker else _OCI_TYPES
    notes = {} if format.docker else layer.annotations
    kept = {key: text for key, text in notes.items() if not key.startswith(_OF_CACHES)}
    typed = replace(layer.plain, media_type=types.get(layer.media_type, layer.media_type))
    return replace(typed, annotations={**kept, **added})
