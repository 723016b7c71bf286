"""Layers -> configuration, manifest and index, in the format that each output wants.

Outputs may want other compression, other media types, other annotations. What they have in common
is built once; layers that do not suit a format are compressed anew, each only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from shipline.build.base_images import Blobs
from shipline.build.cache import Cache, LayerResult
from shipline.build.flags import parse_boolean
from shipline.build.graph import Vertex, key_of
from shipline.build.request import Annotation, BuildRequest, Level, Output, OutputFormat
from shipline.build.stages import HistoryNote, StageState
from shipline.content import chunks
from shipline.errors import DigestMismatch, UsageError
from shipline.events import Step
from shipline.layer import Codec, Layer, codec, decompress, stream_layer
from shipline.oci import Descriptor, History, ImageConfig, Index, Manifest, Platform, media
from shipline.tasks import Once

PLAIN = OutputFormat()
"""Layers as they are, OCI media types, no annotations."""

_OF_IMAGES = ("image", "oci", "docker")
_DOCKER_TYPES = {
    media.OCI_LAYER: media.DOCKER_LAYER,
    media.OCI_LAYER_GZIP: media.DOCKER_LAYER_GZIP,
}
_OCI_TYPES = {docker: oci for oci, docker in _DOCKER_TYPES.items()}


def format_of(output: Output, request: BuildRequest) -> OutputFormat:
    """How `output` wants the image, with the annotations of every image."""
    if output.type not in _OF_IMAGES:
        return PLAIN
    return replace(output.format, annotations=(*request.annotations, *output.format.annotations))


def formats_of(request: BuildRequest) -> tuple[OutputFormat, ...]:
    """The formats that outputs want, each once; those that are pushed come first, and new layers
    are made for the first. Raises UsageError for a format that cannot be.
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
    if wanted.docker and wanted.annotations:
        raise UsageError(
            "Docker's manifest format has no annotations", hint="leave oci-mediatypes=false out"
        )
    for one in wanted.annotations:
        if one.platform is not None and one.platform not in platforms:
            raise UsageError(
                f"there is no image for {one.platform} to annotate",
                hint=f"the build is for {', '.join(map(str, platforms))}",
            )
        if one.level.of_index and len(platforms) == 1:
            raise UsageError(
                f"the annotation {one.key} is for an index, but a build for one platform has none",
                hint="annotate the manifest, or build for several platforms",
            )


def wants_index(request: BuildRequest) -> bool:
    """Whether the result is an index; BUILDKIT_MULTI_PLATFORM asks for one of a single image.

    Raises UsageError where it forbids one for several.
    """
    several = len(request.target_platforms) > 1
    text = request.build_args.get("BUILDKIT_MULTI_PLATFORM", "")
    wanted = parse_boolean(text, "BUILDKIT_MULTI_PLATFORM") if text else several
    if several and not wanted:
        raise UsageError(
            "BUILDKIT_MULTI_PLATFORM forbids an index, and several platforms are asked for",
            hint="leave it out, or ask for one platform",
        )
    return wanted


def codec_of(wanted: OutputFormat) -> Codec:
    """What new layers are compressed with. Raises UsageError for an unknown compression, and for
    one that does not go with the media types.
    """
    codec(wanted.compression or "gzip", wanted.level, docker=wanted.docker)
    return codec(wanted.compression or "gzip", wanted.level)


def suits(wanted: OutputFormat, compression: str, level: int | None) -> bool:
    """Whether new layers that are compressed so can stay as they are."""
    if not wanted.compression:
        return not (wanted.docker and compression == "zstd")
    return compression == wanted.compression and wanted.level in (None, level)


def codec_for(wanted: OutputFormat, layer: Layer, made: LayerResult | None) -> Codec | None:
    """What `layer` is to be compressed with anew, None where it is right as it is.

    `made` is None for a layer of a base image.
    """
    compression = media.compression(layer.descriptor.media_type)
    if compression is None:
        return None
    if made is not None:
        return None if suits(wanted, compression, made.level) else codec_of(wanted)
    foreign = wanted.force and compression != wanted.compression
    return codec_of(wanted) if foreign or (wanted.docker and compression == "zstd") else None


class Recoder:
    """Finds or makes the layers that a format wants. Safe to use from any thread."""

    def __init__(self, blobs: Blobs, cache: Cache, step: Step) -> None:
        self._blobs = blobs
        self._cache = cache
        self._step = step
        self._once: Once[Layer] = Once()

    def recode(self, layer: Layer, made: LayerResult | None, wanted: OutputFormat) -> Layer:
        """The same files in the format `wanted`; `made` is None for a layer of a base image.

        Raises ContentError, RegistryError where the layer cannot be read.
        """
        codec = codec_for(wanted, layer, made)
        if codec is None:
            return layer
        key = key_of(
            "recoded/1",
            diff_id=str(layer.diff_id),
            compression=codec.name,
            level=codec.level,
            docker=codec.docker,
        )
        return self._once.get(key, lambda: self._recoded(key, layer, codec))

    def _recoded(self, key: str, layer: Layer, codec: Codec) -> Layer:
        if found := self._cache.get(key):
            return found.layer
        name = f"compress {layer.descriptor.digest.short} as {codec.name}"
        with self._step.step(name, kind="internal", size=layer.descriptor.size):
            recoded = self._compress(layer, codec)
        self._cache.put(LayerResult(recoded, "", codec.level), key)
        return recoded

    def _compress(self, layer: Layer, codec: Codec) -> Layer:
        before = media.compression(layer.descriptor.media_type)
        assert before is not None
        with self._blobs.fetch(layer.descriptor) as blob, self._blobs.store.ingest() as ingest:
            recoded = stream_layer(chunks(decompress(blob, before)), ingest, codec)
        if recoded.diff_id != layer.diff_id:
            raise DigestMismatch(
                expected=str(layer.diff_id),
                got=str(recoded.diff_id),
                where="the layer of a base image",
                hint="its configuration and its layers do not belong together; build it again",
            )
        return recoded


@dataclass(frozen=True, slots=True)
class Image:
    """One platform's image, complete but for the bytes of its layers."""

    platform: Platform
    config: ImageConfig
    config_bytes: bytes
    config_descriptor: Descriptor
    manifest: Manifest
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Assembled:
    """The result in one format. `descriptor` is that of `root`, with its annotations."""

    images: tuple[Image, ...]
    root: Index | Manifest
    descriptor: Descriptor


def assemble(
    planned: StageState,
    layers: tuple[Layer, ...],
    made: Callable[[Vertex], LayerResult],
    *,
    epoch: str,
    now: str,
    format: OutputFormat = PLAIN,
) -> Image:
    """The image of one platform; `layers` are as `format` has them.

    `epoch`, if any, replaces every time that this build adds.
    """
    history = _history(planned, made, epoch)
    created = epoch or (history[-1].created if history else "") or planned.image.created or now
    config = replace(
        planned.image,
        diff_ids=tuple(layer.diff_id for layer in layers),
        history=history,
        created=created,
    )
    raw = config.to_bytes()
    config_type = media.DOCKER_CONFIG if format.docker else media.OCI_CONFIG
    descriptor = Descriptor.of(raw, config_type)
    manifest = Manifest.make(
        descriptor,
        [_typed(layer.descriptor, format).plain for layer in layers],
        media_type=media.DOCKER_MANIFEST if format.docker else media.OCI_MANIFEST,
        annotations=annotations_at(format.annotations, Level.MANIFEST, config.platform),
    )
    return Image(config.platform, config, raw, descriptor, manifest, layers)


def combine(
    images: Sequence[Image], format: OutputFormat = PLAIN, *, indexed: bool = False
) -> Assembled:
    """An index over the images of all platforms, in the order asked for; one image stands alone,
    unless it is to be `indexed`.
    """

    def described(image: Image) -> Descriptor:
        notes = annotations_at(format.annotations, Level.MANIFEST_DESCRIPTOR, image.platform)
        return replace(image.manifest.descriptor, annotations=notes)

    if len(images) == 1 and not indexed:
        return Assembled(tuple(images), images[0].manifest, described(images[0]))
    index = Index.make(
        (replace(described(image), platform=image.platform) for image in images),
        media_type=media.DOCKER_INDEX if format.docker else media.OCI_INDEX,
        annotations=annotations_at(format.annotations, Level.INDEX),
    )
    notes = annotations_at(format.annotations, Level.INDEX_DESCRIPTOR)
    return Assembled(tuple(images), index, replace(index.descriptor, annotations=notes))


def annotations_at(
    annotations: Iterable[Annotation], level: Level, platform: Platform | None = None
) -> Mapping[str, str]:
    """Those of one document or descriptor; the ones for its platform win over those for all."""
    found = [one for one in annotations if one.level is level]
    general = {one.key: one.value for one in found if one.platform is None}
    own = {one.key: one.value for one in found if platform and one.platform == platform}
    return general | own


def _typed(layer: Descriptor, format: OutputFormat) -> Descriptor:
    types = _DOCKER_TYPES if format.docker else _OCI_TYPES
    return replace(layer, media_type=types.get(layer.media_type, layer.media_type))


def _history(
    planned: StageState, made: Callable[[Vertex], LayerResult], epoch: str
) -> tuple[History, ...]:
    """The base's history and ours. An entry without a layer takes the time of the layer before
    it; those before the first layer take that one's, so that equal builds are equal documents.
    """
    times = [_created(note, made, epoch) for note in planned.notes]
    first = next(filter(None, times), planned.image.created)
    entries = []
    for note, time in zip(planned.notes, times, strict=True):
        first = time or first
        empty = note.vertex is None
        entries.append(History(first, note.text, comment=note.comment, empty_layer=empty))
    return (*planned.image.history, *entries)


def _created(note: HistoryNote, made: Callable[[Vertex], LayerResult], epoch: str) -> str:
    if epoch:
        return epoch
    return made(note.vertex).created if note.vertex is not None else ""
