"""Pushing to registries: layers while they are being made, tags last.

Nothing has a name until everything has arrived: first layers, then configurations, manifests and
the index by digest, children first, and then tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from shipline.build.assembly import PLAIN, Assembled, Recoder, fits, format_of
from shipline.build.base_images import Repositories
from shipline.build.blobs import Blobs
from shipline.build.cache import LayerResult
from shipline.build.request import BuildRequest, Output, OutputFormat
from shipline.content import (
    Assumer,
    Follow,
    Ingester,
    LocalIngest,
    MemoryStore,
    Repository,
    Uploader,
)
from shipline.errors import Cancelled, DigestMismatch, FlagConflict, RegistryError, UsageError
from shipline.events import Step
from shipline.layer import Codec, Layer
from shipline.oci import Descriptor, Digest, Index, Reference, media
from shipline.tasks import Once, TaskGroup, check, run_all

UPLOADS = 16  # at once, to all targets
_WORTH_STREAMING = 4 << 20  # bytes; a smaller layer is uploaded once it is complete
_AT_ONCE = 8  # requests of one kind


class PushTarget(Struct, frozen=True):
    """A repository to push one format to, and the tags that the result gets there."""

    host: str
    name: str
    repository: Repository
    format: OutputFormat = PLAIN
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.host}/{self.name}"


def push_targets(request: BuildRequest, repositories: Repositories) -> tuple[PushTarget, ...]:
    """The repositories to push to, with their tags, for each output.

    Raises UsageError for a missing name, and for a tag that cannot be given.
    """
    found: list[PushTarget] = []
    for output in request.outputs:
        if not output.push:
            continue
        groups: dict[str, list[Reference]] = {}
        for name in request.names_of(output) or _dangling(output):
            groups.setdefault(name.name, []).append(name)
        if not groups:
            raise UsageError(
                "a tag is needed when pushing", code="tag-missing", hint="name the image with -t"
            )
        for first, *others in groups.values():
            tags = _tags(output, [first, *others])
            wanted = format_of(output, request)
            found.append(
                PushTarget(first.host, first.repository, repositories(first), wanted, tags)
            )
    _refuse_clashes(found)
    return tuple(found)


_NOTHING = Descriptor.of(b"", media.OCI_LAYER)


def check_target(target: PushTarget) -> None:
    """Ask the registry for something, so that a build ends before its first step, not at its first
    upload, where nothing can be pushed. Raises AuthError, and RegistryError for a registry that
    cannot be reached; what else it answers is for the uploads to judge.
    """
    try:
        target.repository.exists(_NOTHING)
    except RegistryError as error:
        if not error.status:
            raise


def _dangling(output: Output) -> tuple[Reference, ...]:
    """The repository of an image that has no name but its digest."""
    prefix = output.dangling_prefix
    return (Reference.parse(prefix),) if prefix else ()


def _tags(output: Output, names: Iterable[Reference]) -> tuple[str, ...]:
    """The tags that an output gives; none if it pushes by digest."""
    tags = tuple(name.tag or "latest" for name in names)
    if not output.push_by_digest and not output.dangling_prefix:
        return tags
    for tag in tags:
        if tag != "latest":
            raise FlagConflict(
                f"push-by-digest applies no tags, but the tag {tag!r} was requested",
                hint="name the repository alone, without a tag",
            )
    return ()


def _refuse_clashes(targets: Iterable[PushTarget]) -> None:
    seen: dict[str, OutputFormat] = {}
    for target in targets:
        for tag in target.tags:
            name = f"{target}:{tag}"
            if seen.setdefault(name, target.format) != target.format:
                raise UsageError(
                    f"two outputs give the name {name} to different images", code="output-conflict"
                )


def stream(follow: Follow, target: Ingester, parent: Step, name: str, **attributes: str) -> bool:
    """Upload a layer as it grows, unless it is a small one that is complete at once; whether
    `target` accepted it. `name` and `attributes` are those of the step that shows it.
    """
    if not follow.growing(_WORTH_STREAMING):
        return False
    opened = target.upload() if isinstance(target, Uploader) else target.ingest()
    try:
        with parent.step(name, kind="upload", **attributes) as step, opened as upload:
            moved = 0
            for data in follow:
                upload.write(data)
                moved += len(data)
                step.progress(moved, follow.total)
            layer = follow.wait()
            upload.commit(layer)
            step.progress(moved, moved)
            step.note(size=moved, blob=str(layer.digest))
    except (RegistryError, DigestMismatch):
        return False
    return True


class Uploads:
    """Sends layers to every target; when `group` ends, all of them have arrived.

    New layers are made with `codec`; targets that it fits get their bytes while they are made. A
    layer goes to one repository of a registry first, so that the others can mount it from there.
    """

    def __init__(
        self,
        group: TaskGroup,
        targets: Iterable[PushTarget],
        blobs: Blobs,
        recoder: Recoder,
        codec: Codec,
        step: Step,
    ) -> None:
        self._group = group
        self._blobs = blobs
        self._recoder = recoder
        self._step = step
        self._once: Once[None] = Once()
        self._followed: set[Digest] = set()
        self._sent: set[tuple[Layer, LayerResult | None]] = set()
        self._groups: dict[tuple[str, OutputFormat], list[PushTarget]] = {}
        for one in targets:
            self._groups.setdefault((one.host, one.format), []).append(one)
        firsts = [group[0] for group in self._groups.values()]
        self._following = [one for one in firsts if fits(one.format, codec.name, codec.level)]
        self._others = [one for one in firsts if one not in self._following]

    def follow(self, ingest: LocalIngest) -> None:
        """Upload a layer while it is being made; `completed` follows."""
        for target in self._following:
            self._group.start(self._follow, target, ingest.follow())

    def completed(self, layer: Descriptor) -> None:
        """Remember that a layer that was followed is complete."""
        self._followed.add(layer.digest)

    def send(self, layer: Layer, result: LayerResult | None) -> None:
        """Upload a layer that exists, here or in the registry of a base image (`result` None); one
        that several images have once.
        """
        if (layer, result) in self._sent:
            return
        self._sent.add((layer, result))
        followed = layer.descriptor.digest in self._followed
        for target in self._others if followed else (*self._following, *self._others):
            self._group.start(self._convert, target, layer, result)

    def _convert(self, target: PushTarget, layer: Layer, result: LayerResult | None) -> None:
        descriptor = self._recoder.recode(layer, result, target.format).descriptor
        self._send(target, descriptor)
        self._send_to_others(target, descriptor)

    def _follow(self, target: PushTarget, follow: Follow) -> None:
        with follow:
            try:
                name = f"upload to {target}"
                if stream(follow, target.repository, self._step, name, host=target.host):
                    layer = follow.wait()
                    self._once.get((str(target), layer.digest), lambda: None)
                else:
                    layer = follow.wait()
                    self._send(target, layer)
                self._send_to_others(target, layer)
            except Cancelled:
                check()  # else the layer was abandoned: its writer raises the reason

    def _send_to_others(self, first: PushTarget, layer: Descriptor) -> None:
        """Send a layer that `first` has to the other repositories of its registry."""
        for other in self._groups[first.host, first.format][1:]:
            self._group.start(self._send, other, layer)

    def _send(self, target: PushTarget, layer: Descriptor) -> None:
        self._once.get((str(target), layer.digest), lambda: self._deliver(target, layer))

    def _deliver(self, target: PushTarget, layer: Descriptor) -> None:
        repository = target.repository
        if isinstance(repository, Assumer) and repository.assumes(layer, self._blobs):
            return
        if repository.exists(layer):
            return
        first = self._groups[target.host, target.format][0]
        origin = self._blobs.origin(layer.digest) if first is target else first.repository
        if origin is not None and target.repository.mount(layer, origin):
            return
        name = f"upload {layer.digest.short} to {target}"
        blob = str(layer.digest)
        upload = self._step.step(name, kind="upload", host=target.host, size=layer.size, blob=blob)
        with upload as step:
            moved = 0

            def advance(count: int) -> None:
                nonlocal moved
                moved += count
                step.progress(moved, layer.size)

            target.repository.push(layer, self._blobs, advance)


Results = Mapping[OutputFormat, Assembled]


def show_documents(result: Assembled, step: Step) -> None:
    """Name the documents of the result as lines of `step`, as BuildKit does."""
    for image in result.images:
        show_status(f"exporting manifest {image.manifest.descriptor.digest}", step)
        show_status(f"exporting config {image.config_descriptor.digest}", step)
    for one in result.attestations:
        show_status(f"exporting attestation manifest {one.manifest.descriptor.digest}", step)
    if isinstance(result.root, Index):
        show_status(f"exporting manifest list {result.root.descriptor.digest}", step)


def show_status(text: str, step: Step) -> None:
    """A line of `step` that is done."""
    with step.step(text, kind="status"):
        pass


def push_documents(results: Results, targets: Iterable[PushTarget], step: Step) -> None:
    """Push configurations, manifests and the index by digest. No tag exists yet.

    What is there already is asked for at once: where nothing changed, the registry is waited for
    once, not for each level.
    """

    def push(target: PushTarget) -> None:
        result = results[target.format]
        documents = result.documents
        source = MemoryStore(*documents.values())
        blobs = [one for one in documents if one.media_type not in media.NAMED]
        images = [image.manifest.descriptor for image in result.images]
        attestations = [one.manifest.descriptor for one in result.attestations]
        root = result.root.descriptor
        with step.step("exporting to image", kind="push", host=target.host) as exporting:
            show_documents(result, exporting)
            with TaskGroup(_AT_ONCE) as asking:
                for one in {*images, *attestations, root}:
                    asking.start(target.repository.exists, one)
                _push_all(target, blobs, source)
            _push_all(target, images, source)
            _push_all(target, attestations, source)
            target.repository.push(root, source)

    run_all(push, targets)


def _push_all(target: PushTarget, nodes: Iterable[Descriptor], source: MemoryStore) -> None:
    found = {node.digest: node for node in nodes}.values()
    run_all(lambda node: target.repository.push(node, source), found, at_once=_AT_ONCE)


def push_tags(results: Results, targets: Iterable[PushTarget], step: Step) -> None:
    """Push the tags. If a registry refuses one, the others stay."""

    def tag(one: tuple[PushTarget, str]) -> None:
        target, name = one
        root = results[target.format].root
        shown = f"pushing manifest for {target}:{name}@{root.descriptor.digest}"
        with step.step(shown, kind="tag", host=target.host):
            target.repository.tag(root.descriptor, MemoryStore(root.raw), name)

    tags = [(target, name) for target in targets for name in target.tags]
    run_all(tag, tags, at_once=_AT_ONCE)
