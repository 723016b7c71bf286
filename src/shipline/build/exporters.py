"""Results as files: `local` and `tar` hold the files of the image, `oci` and `docker` the image."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct, field

from shipline.build.assembly import Assembled
from shipline.build.attestation.manifest import Attestation
from shipline.build.blobs import Blobs
from shipline.build.faults import output_errors
from shipline.build.publish import show_documents, show_status
from shipline.build.request import BuildRequest, Output
from shipline.build.snapshots import Snapshot, Snapshots
from shipline.content import Reader, adding_images
from shipline.errors import MissingFlag, UsageError
from shipline.events import Step
from shipline.files import open_whole
from shipline.layer import Content, Entry, Item, Written, scan, unpack, write_tar
from shipline.oci import IMAGE_NAME, LAYOUT_FILE, REF_NAME, Descriptor, Index, Platform, Reference
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.engines import LoadableImage
    from shipline.supply import Subject

FILES = ("local", "tar")
"""The types of outputs that hold the files of an image."""
ARCHIVES = ("oci", "docker")
"""The types of outputs that hold images in an archive."""

_SHOWN = {
    "image": "image",
    "docker": "docker image format",
    "oci": "oci image format",
    "local": "client directory",
    "tar": "client tarball",
}
"""What progress calls the types, as BuildKit's: scripts search for these words."""
_CREATED = "org.opencontainers.image.created"
_FRACTION = re.compile(r"\.[0-9]+")  # of a second


class ExportSource(Struct, frozen=True):
    """A result in the format of an output, with its names and what gives its files; `attestations`
    are what is stated about the images of each platform. Where files are `dated`, all have the time
    `mtime_ns`, and else those alone that are in no image.
    """

    assembled: Assembled
    names: Sequence[Reference]
    blobs: Blobs
    snapshots: Snapshots
    mtime_ns: int
    environment: Mapping[str, str] = field(default_factory=dict)
    attestations: Mapping[Platform, Sequence[Attestation]] = field(default_factory=dict)
    dated: bool = False


def export(output: Output, source: ExportSource, stdout: BinaryIO | None, step: Step) -> bool:
    """Write the result to `output`; whether an engine has it now that calls it by the digest of its
    manifest. Raises UsageError, ContentError.
    """
    write = _WRITERS.get(output.type)
    if write is None or (output.type == "image" and not output.store):
        return False
    name = f"exporting to {_SHOWN['image' if output.loads else output.type]}"
    with step.step(name, kind="export") as exporting, output_errors(output.destination):
        if output.type not in FILES:
            show_documents(source.assembled, exporting)
        by_manifest = write(output, source, stdout) or False
        if output.loads and not by_manifest:
            image = source.assembled.images[0].config_descriptor.digest
            show_status(f"writing image {image}", exporting)
        for one in source.names if output.loads or output.type == "image" else ():
            show_status(f"naming to {one.tagged(one.tag or 'latest')}", exporting)
    return by_manifest


def _local(output: Output, source: ExportSource, stdout: BinaryIO | None) -> None:
    destination, written = Path(output.destination), Written()
    for prefix, items in _trees(output, source):
        place = destination / prefix
        place.mkdir(parents=True, exist_ok=True)
        unpack(written.through(items, prefix), place, whiteouts="keep", owner=False)
    if output.delete:
        written.remove_others(destination)


def _tar(output: Output, source: ExportSource, stdout: BinaryIO | None) -> None:
    def everything() -> Iterator[Item]:
        for prefix, items in _trees(output, source):
            if prefix:
                yield Entry(prefix, "dir", 0o755, mtime_ns=source.mtime_ns), None
            yield from _below(prefix, items)

    with _opened(output.destination, stdout) as file:
        for data in write_tar(everything()):
            file.write(data)


def _trees(output: Output, source: ExportSource) -> Iterator[tuple[str, Iterator[Item]]]:
    """The files of each image, with its attestations; with several images each has its own
    directory.
    """
    several = isinstance(source.assembled.root, Index)
    split = several if output.split is None else output.split
    owners: dict[str, Platform] = {}
    for image in source.assembled.images:
        attestations = [
            one for one in source.attestations.get(image.platform, ()) if not one.inline_only
        ]
        with source.snapshots.mounted(Snapshot(image.layers)) as root:
            prefix = _directory_name(image.platform) if split else ""
            infix = f".{_directory_name(image.platform)}" if several and not split else ""
            items = _attested(output, infix, root, attestations, source.mtime_ns)
            if source.dated:
                items = _dated(items, source.mtime_ns)
            yield prefix, items if split else _apart(items, image.platform, owners)


def _dated(items: Iterable[Item], mtime_ns: int) -> Iterator[Item]:
    return ((entry._replace(mtime_ns=mtime_ns), content) for entry, content in items)


def _apart(
    items: Iterable[Item], platform: Platform, owners: dict[str, Platform]
) -> Iterator[Item]:
    """The items, none of which may take the name of another platform's file."""
    for entry, content in items:
        owner = platform if entry.kind == "dir" else owners.setdefault(entry.path, platform)
        if owner != platform:
            raise UsageError(
                f"cannot overwrite {shown_path(entry.path)} from {owner} with {platform}"
                " when split option is disabled",
                code="output-conflict",
                hint="leave out platform-split=false, or name the files after their platform",
            )
        yield entry, content


def _attested(
    output: Output, infix: str, root: Path, attestations: Sequence[Attestation], mtime_ns: int
) -> Iterator[Item]:
    """The files below `root`, and the statements about them, with `infix` before the end of their
    names.
    """
    yield from scan(root).items()
    subjects = _subjects(root) if attestations else []
    for one in attestations:
        stem, end = os.path.splitext(one.filename)
        name = f"{output.attestation_prefix}{stem}{infix}{end}"
        if (root / name).exists():
            raise UsageError(
                f"the image already has a file {name!r}, the name of an attestation",
                code="output-conflict",
                hint="set attestation-prefix= in --output",
            )
        content = one.file(subjects)
        yield Entry(name, "file", 0o600, size=len(content), mtime_ns=mtime_ns), content


def _subjects(root: Path) -> list[Subject]:
    """The regular files below `root`, by their digests."""
    from shipline.supply import Subject  # slow to import

    found: dict[str, str] = {}
    for entry, content in scan(root).items():
        if entry.kind == "hardlink":
            found[entry.path] = found[entry.link]
        elif entry.kind == "file":
            found[entry.path] = _sha256(root / entry.path, content)
    return [Subject(shown_path(path), {"sha256": hex}) for path, hex in sorted(found.items())]


def _sha256(path: Path, content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown_path(path: str) -> str:
    """A path as JSON can have it: names that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _below(prefix: str, items: Iterator[Item]) -> Iterator[Item]:
    if not prefix:
        yield from items
        return
    for entry, content in items:
        link = f"{prefix}/{entry.link}" if entry.kind == "hardlink" else entry.link
        yield entry._replace(path=f"{prefix}/{entry.path}", link=link), content


def _directory_name(platform: Platform) -> str:
    return platform.full.replace("/", "_")


def _image_archive(output: Output, source: ExportSource, stdout: BinaryIO | None) -> bool:
    """An OCI image layout, as a tar archive or, with tar=false, as a directory."""
    if output.loads:
        return _load(output, source)
    with ExitStack() as stack:
        items = list(_layout(output, source, stack))
        if not output.archive:
            place = Path(output.destination)
            place.mkdir(parents=True, exist_ok=True)
            with adding_images(place, _named(source) or [_latest(source)]):
                unpack(items, place, whiteouts="keep", owner=False)
        else:
            file = stack.enter_context(_opened(output.destination, stdout))
            for data in write_tar(items):
                file.write(data)
    return False


def _layout(output: Output, source: ExportSource, stack: ExitStack) -> Iterator[Item]:
    """The files of an image layout (image-layout.md), with the times and modes of BuildKit's, so
    that equal images make equal archives; `docker` adds its own manifest.json. A directory may have
    other images, and gets its index.json last. Layers are verified while they are read.
    """
    documents = {
        descriptor.digest.hex: raw for descriptor, raw in source.assembled.documents.items()
    }
    layers = {layer.descriptor.digest.hex: layer.descriptor for image in source.assembled.images
              for layer in image.layers}  # fmt: skip
    for layer in layers.values():
        source.blobs.require(layer)
    for directory in ("blobs", "blobs/sha256"):
        yield Entry(directory, "dir", 0o755), None
    for name in sorted({*documents, *layers}):
        if name in documents:
            yield _file(f"blobs/sha256/{name}", documents[name], 0o444)
        else:
            entry = Entry(f"blobs/sha256/{name}", "file", 0o444, size=layers[name].size)
            yield entry, stack.enter_context(source.blobs.fetch(layers[name]))
    if output.archive:
        index = Index.make(_named(source) or [archived(source.assembled)])
        yield _file("index.json", index.raw)
    if output.type == "docker":
        yield _file("manifest.json", _docker_manifest(source))
    yield _file("oci-layout", LAYOUT_FILE, 0o444 if output.archive else 0o644)


def archived(assembled: Assembled) -> Descriptor:
    """The descriptor of an image in an archive: it says in which second the image was created."""
    created = {_CREATED: _FRACTION.sub("", assembled.images[0].config.created)}
    root = assembled.descriptor
    return replace(root, annotations=dict(sorted({**created, **root.annotations}.items())))


def _named(source: ExportSource) -> list[Descriptor]:
    root = archived(source.assembled)
    return [_described(root, name) for name in source.names]


def _latest(source: ExportSource) -> Descriptor:
    """An image without a name has this tag in a directory, as in BuildKit."""
    root = archived(source.assembled)
    return replace(root, annotations={**root.annotations, REF_NAME: "latest"})


def _described(target: Descriptor, name: Reference) -> Descriptor:
    tag = name.tag or "latest"
    notes = {IMAGE_NAME: str(name.tagged(tag)), REF_NAME: tag}
    return replace(target, annotations={**target.annotations, **notes})


def _docker_manifest(source: ExportSource) -> bytes:
    """The document that `docker load` reads; it has one platform."""
    image = source.assembled.images[0]
    document = {
        "Config": f"blobs/sha256/{image.config_descriptor.digest.hex}",
        "RepoTags": [name.tagged(name.tag or "latest").familiar for name in source.names] or None,
        "Layers": [f"blobs/sha256/{layer.descriptor.digest.hex}" for layer in image.layers],
    }
    return json.dumps([document], separators=(",", ":")).encode()


def _file(path: str, content: bytes, mode: int = 0o644) -> Item:
    return Entry(path, "file", mode, size=len(content)), content


@contextmanager
def _opened(destination: str, stdout: BinaryIO | None) -> Iterator[BinaryIO]:
    """The file to write; it gets its name only when it is complete."""
    if destination in ("", "-"):
        if stdout is None:
            raise MissingFlag("the output needs a destination", hint="add dest=FILE to --output")
        yield stdout
        return
    path = Path(destination)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(path) as file:
        yield file


def check_outputs(request: BuildRequest, state: Path) -> None:
    """Raise UsageError for an output that would remove files which are needed: the directories of
    contexts, of the user and of this program, and what a symbolic link leads to.
    """
    for output in request.outputs:
        if output.delete:
            if Path(output.destination).is_symlink():
                raise UsageError(
                    f"--output: {output.destination} is a symbolic link, which mode=delete does not"
                    " follow",
                    code="output-delete",
                    hint=f"name the directory itself: dest={Path(output.destination).resolve()}",
                )
            _check_removal(Path(output.destination).resolve(), _kept(request, state))


def _kept(request: BuildRequest, state: Path) -> Iterator[tuple[str, Path]]:
    contexts = (request.context, *request.build_contexts.values())
    yield from (("a context", Path(one.location)) for one in contexts if one.is_local)
    if request.dockerfile is not None and Path(request.dockerfile).exists():
        yield "the Dockerfile", Path(request.dockerfile)
    yield "the working directory", Path.cwd()
    yield "the home directory", Path.home()
    yield "the state directory", state


def _mounts() -> Iterator[Path]:
    """The mount points of this machine (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        escaped = line.split()[4]
        yield Path(
            os.fsdecode(re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), escaped))
        )


def _check_removal(place: Path, kept: Iterable[tuple[str, Path]]) -> None:
    mounts = (("what is mounted", path) for path in _mounts() if place in path.parents)
    for what, path in (*kept, *mounts):
        if path.resolve().is_relative_to(place):
            raise UsageError(
                f"--output: mode=delete removes all other files in {place}, also {what}: {path}",
                code="output-delete",
                hint="name a directory of its own with dest=",
            )


def check_engines(request: BuildRequest, environment: Mapping[str, str]) -> None:
    """Raise EngineError unless the engines answer that results go into, and UsageError for an image
    of several platforms where an engine has no room for one.
    """
    if not any(output.store or output.loads for output in request.outputs):
        return
    from shipline.engines import find_engine, open_containerd  # slow to import

    for output in request.outputs:
        if output.store:
            open_containerd(environment)
        if not output.loads:
            continue
        engine = find_engine(environment, output.context)
        if len(request.target_platforms) > 1 and not engine.several:
            raise UsageError(
                "--load: the image is for several platforms, and this engine keeps one of a name",
                code="load-platforms",
                hint="turn on the containerd image store of Docker"
                " (docs.docker.com/engine/storage/containerd), build for one platform, or push",
            )


def _load(output: Output, source: ExportSource) -> bool:
    """Docker's containerd image store calls images by manifests, other stores by configurations."""
    from shipline.engines import find_engine  # slow to import

    engine = find_engine(source.environment, output.context)
    engine.load(_loadable(output, source))
    return engine.several


def _store(output: Output, source: ExportSource, stdout: BinaryIO | None) -> None:
    """Keep the image in containerd."""
    from shipline.engines import open_containerd  # slow to import

    store = open_containerd(source.environment)
    store.store(_loadable(output, source), unpack=output.unpack)


def _loadable(output: Output, source: ExportSource) -> LoadableImage:
    from shipline.engines import LoadableImage, UnpackableImage  # slow to import

    def archive() -> Iterator[bytes]:
        with ExitStack() as stack:
            yield from write_tar(list(_layout(output, source, stack)))

    def fetch(layer: Descriptor) -> AbstractContextManager[Reader]:
        source.blobs.require(layer)
        return source.blobs.fetch(layer)

    root = source.assembled.descriptor
    names = [str(name.tagged(name.tag or "latest")) for name in source.names]
    if not names and output.dangling_prefix:
        names = [f"{output.dangling_prefix}@{root.digest}"]
    elif output.canonical:
        names += [f"{name}@{root.digest}" for name in names]
    return LoadableImage(
        names=names,
        target=root,
        documents=source.assembled.documents,
        images=[
            UnpackableImage(
                image.platform,
                image.config_descriptor,
                [(layer.descriptor, layer.diff_id) for layer in image.layers],
            )
            for image in source.assembled.images
        ],
        archive=archive,
        fetch=fetch,
    )


_WRITERS: dict[str, Callable[[Output, ExportSource, BinaryIO | None], bool | None]] = {
    "image": _store,
    "local": _local,
    "tar": _tar,
    "oci": _image_archive,
    "docker": _image_archive,
}
