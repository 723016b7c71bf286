"""Results as files: `local` and `tar` hold the tree, `oci` and `docker` the image."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from shipline.build.assembly import Assembled
from shipline.build.base_images import Blobs
from shipline.build.faults import output_errors
from shipline.build.request import Output
from shipline.build.snapshots import Snapshot, Snapshots
from shipline.errors import UsageError
from shipline.events import Step
from shipline.layer import Entry, Item, scan, unpack, write_tar
from shipline.oci import Descriptor, Index, Platform, Reference
from shipline.tasks import on_cancel

_CREATED_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Results:
    """What there is to export."""

    assembled: Assembled
    names: Sequence[Reference]
    blobs: Blobs
    snapshots: Snapshots
    mtime_ns: int


def export(output: Output, results: Results, stdout: BinaryIO | None, step: Step) -> None:
    """Write the results to where `output` says. Raises UsageError, ContentError."""
    write = _WRITERS.get(output.type)
    if write is None:
        return
    name = f"export to {output.type} {output.destination}".rstrip()
    with step.step(name, kind="export"), output_errors(output.destination):
        write(output, results, stdout)


def _local(output: Output, results: Results, stdout: BinaryIO | None) -> None:
    destination = Path(output.destination)
    for prefix, snapshot in _trees(output, results):
        place = destination / prefix
        place.mkdir(parents=True, exist_ok=True)
        with results.snapshots.mounted(snapshot) as root:
            unpack(scan(root).items(), place, whiteouts="keep", owner=False)


def _tar(output: Output, results: Results, stdout: BinaryIO | None) -> None:
    def everything() -> Iterator[Item]:
        for prefix, snapshot in _trees(output, results):
            if prefix:
                yield Entry(prefix, "dir", 0o755, mtime_ns=results.mtime_ns), None
            with results.snapshots.mounted(snapshot) as root:
                yield from _below(prefix, scan(root).items())

    with _opened(output.destination, stdout) as file:
        for data in write_tar(everything()):
            file.write(data)


def _trees(output: Output, results: Results) -> Iterator[tuple[str, Snapshot]]:
    """Every image's files, below a directory of their own where there are several."""
    several = isinstance(results.assembled.root, Index)
    split = several if output.split is None else output.split
    for image in results.assembled.images:
        yield _directory_name(image.platform) if split else "", Snapshot(image.layers)


def _below(prefix: str, items: Iterator[Item]) -> Iterator[Item]:
    if not prefix:
        yield from items
        return
    for entry, content in items:
        link = f"{prefix}/{entry.link}" if entry.kind == "hardlink" else entry.link
        yield entry._replace(path=f"{prefix}/{entry.path}", link=link), content


def _directory_name(platform: Platform) -> str:
    return str(platform).replace("/", "_")


def _image_archive(output: Output, results: Results, stdout: BinaryIO | None) -> None:
    """An OCI image layout, as a tar archive or, with tar=false, as a directory."""
    with ExitStack() as stack:
        items = list(_layout(output, results, stack))
        if not output.archive:
            place = Path(output.destination)
            place.mkdir(parents=True, exist_ok=True)
            unpack(items, place, whiteouts="keep", owner=False)
        elif output.loads:
            _load(write_tar(items))
        else:
            file = stack.enter_context(_opened(output.destination, stdout))
            for data in write_tar(items):
                file.write(data)


def _layout(output: Output, results: Results, stack: ExitStack) -> Iterator[Item]:
    """The files of an image layout (image-layout.md); `docker` adds its own manifest.json. Layers
    are verified while they are read.
    """
    documents = {
        descriptor.digest.hex: raw
        for image in results.assembled.images
        for descriptor, raw in (
            (image.config_descriptor, image.config_bytes),
            (image.manifest.descriptor, image.manifest.raw),
        )
    }
    root = results.assembled.root
    documents[root.descriptor.digest.hex] = root.raw
    layers = {layer.descriptor.digest.hex: layer.descriptor for image in results.assembled.images
              for layer in image.layers}  # fmt: skip
    for layer in layers.values():
        results.blobs.ensure(layer)
    yield _folder("blobs", results)
    yield _folder("blobs/sha256", results)
    for name in sorted({*documents, *layers}):
        if name in documents:
            yield _file(f"blobs/sha256/{name}", documents[name], results)
        else:
            entry = Entry(f"blobs/sha256/{name}", "file", 0o444, size=layers[name].size,
                          mtime_ns=results.mtime_ns)  # fmt: skip
            yield entry, stack.enter_context(results.blobs.fetch(layers[name]))
    yield _file("index.json", _index(results), results)
    if output.type == "docker":
        yield _file("manifest.json", _docker_manifest(results), results)
    yield _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}', results)


def _index(results: Results) -> bytes:
    root = results.assembled.descriptor
    named = [_described(root, name) for name in results.names] or [root]
    return Index.make(named).raw


def _described(target: Descriptor, name: Reference) -> Descriptor:
    tag = name.tag or "latest"
    notes = {_CREATED_NAME: str(name.tagged(tag)), _REF_NAME: tag}
    return replace(target, annotations={**target.annotations, **notes})


def _docker_manifest(results: Results) -> bytes:
    """What `docker load` reads; it knows one platform."""
    image = results.assembled.images[0]
    document = {
        "Config": f"blobs/sha256/{image.config_descriptor.digest.hex}",
        "RepoTags": [name.tagged(name.tag or "latest").familiar for name in results.names],
        "Layers": [f"blobs/sha256/{layer.descriptor.digest.hex}" for layer in image.layers],
    }
    return json.dumps([document]).encode()


def _folder(path: str, results: Results) -> Item:
    return Entry(path, "dir", 0o755, mtime_ns=results.mtime_ns), None


def _file(path: str, content: bytes, results: Results) -> Item:
    entry = Entry(path, "file", 0o644, size=len(content), mtime_ns=results.mtime_ns)
    return entry, content


@contextmanager
def _opened(destination: str, stdout: BinaryIO | None) -> Iterator[BinaryIO]:
    """The file to write; one with a name appears there only when it is complete."""
    if destination in ("", "-"):
        if stdout is None:
            raise UsageError("the output needs a destination", hint="add dest=FILE to --output")
        yield stdout
        return
    path = Path(destination)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _load(archive: Iterator[bytes]) -> None:
    """Hand an archive to the engine of this machine."""
    try:
        process = subprocess.Popen(
            ["docker", "load", "--quiet"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        raise UsageError(
            "--load needs the docker command, which is not on the PATH",
            hint="write a file instead: --output type=docker,dest=image.tar",
        ) from None
    assert process.stdin is not None and process.stderr is not None
    with process, on_cancel(process.kill):
        try:
            for data in archive:
                process.stdin.write(data)
            process.stdin.close()
        except BrokenPipeError:
            pass
        message = process.stderr.read().decode("utf-8", "replace").strip()
    if process.returncode:
        raise UsageError(
            f"docker load failed: {message}",
            hint="is the engine running, and does DOCKER_HOST name it?",
        )


_WRITERS: dict[str, Callable[[Output, Results, BinaryIO | None], None]] = {
    "local": _local,
    "tar": _tar,
    "oci": _image_archive,
    "docker": _image_archive,
}
