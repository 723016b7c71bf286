"""Lists of packages for images, stages and contexts: by the built-in scan, or by syft.

What the files of a layer say is kept by diff ID, so that a layer is read once for all images that
it is part of. Nothing is unpacked or mounted for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from shipline.build.attestation.manifest import Attestation
from shipline.build.blobs import Blobs
from shipline.build.cache import RemoteFile
from shipline.build.layer_files import LayerFiles
from shipline.build.request import SbomOptions
from shipline.build.selecting import ContextDirectory
from shipline.build.snapshots import Snapshot, layer_items
from shipline.build.worker import Worker
from shipline.content import fetch_all
from shipline.errors import ContentError, NotFound, SandboxError, UsageError
from shipline.events import Step
from shipline.layer import (
    Entry,
    Item,
    Layer,
    OpenDirectory,
    Source,
    Toc,
    decompress,
    scan,
)
from shipline.oci import media
from shipline.processes import run_process
from shipline.sandbox import resolve_in_root
from shipline.sbom import (
    INCOMPLETE,
    TOOL,
    VERSION,
    Described,
    FileFacts,
    Inventory,
    Kind,
    LayerFacts,
    cyclonedx,
    kind_of,
    of_layers,
    read_file,
    read_tree,
    spdx,
    take_inventory,
)
from shipline.tasks import Limiter, Once
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.build.assembly import Image

SYFT = "syft"
_FACTS_LIMIT = 256 << 20  # bytes
DOCUMENT_LIMIT = 40 << 20  # bytes, as in BuildKit
_SYFT_S = 1800.0
_AT_ONCE = 2  # layers: each may have a file of 512 MiB in memory


def check_generator(options: SbomOptions, environ: Mapping[str, str]) -> str:
    """The path of syft, empty for the built-in scan. Raises UsageError if it is to be used and not
    there.
    """
    if options.generator == "builtin":
        return ""
    found = shutil.which(SYFT, path=environ.get("PATH", "")) or ""
    if options.generator == SYFT and not found:
        raise UsageError(
            "--sbom: there is no syft on the PATH",
            code="sbom-scanner-missing",
            hint="install it, or omit generator= to use the built-in scanner",
        )
    return found


@dataclass(frozen=True, slots=True)
class SbomDocuments:
    """The documents about the packages of one thing: SPDX, and CycloneDX if that is asked for."""

    spdx: Mapping[str, Any]
    cyclonedx: Mapping[str, Any] | None = None

    def attestations(self, filename: str) -> Iterator[Attestation]:
        """Each document as a statement; `filename` is without its suffix."""
        from shipline.supply import CYCLONEDX, SPDX  # slow to import

        yield Attestation(SPDX, self.spdx, f"{filename}.spdx.json")
        if self.cyclonedx is not None:
            yield Attestation(CYCLONEDX, self.cyclonedx, f"{filename}.cdx.json")


class SbomScanner:
    """A PackageScanner that reads the files of layers and contexts, or has syft read them. `name`
    is what documents call the image.
    """

    def __init__(
        self,
        options: SbomOptions,
        name: str,
        environ: Mapping[str, str],
        blobs: Blobs,
        files: LayerFiles,
        worker: Worker,
        step: Step,
    ) -> None:
        self._options = options
        self._name = name
        self._environ = environ
        self._syft = check_generator(options, environ)
        self._blobs = blobs
        self._files = files
        self._snapshots = worker.snapshots
        self._cache = worker.cache
        self._step = step
        self._once: Once[list[FileFacts]] = Once()
        self._limit = Limiter(_AT_ONCE)

    def prepare(self, layer: Layer) -> None:
        """Read the files of a layer that say what is installed, unless they are known."""
        if not self._syft or self._options.cyclonedx:
            self._facts(layer)

    def attestations(
        self, image: Image, extras: Mapping[str, Snapshot | ContextDirectory]
    ) -> list[Attestation]:
        """See `PackageScanner`."""
        created = image.config.created
        about = Described(self._name, str(image.manifest.descriptor.digest), "image", created)
        found = [*self._of_layers(image.layers, about).attestations("sbom")]
        for name, files in extras.items():
            if isinstance(files, ContextDirectory):
                documents = self._of_context(files, Described(name, "", "source", created))
            else:
                documents = self._of_layers(files.layers, Described(name, "", "image", created))
            found += documents.attestations(f"sbom-{name}")
        return found

    def _of_layers(self, layers: Sequence[Layer], described: Described) -> SbomDocuments:
        """The packages in the files of `layers`."""
        found = None
        if not self._syft or self._options.cyclonedx:
            found = of_layers(
                [
                    LayerFacts(self._toc(one), self._facts(one), str(one.descriptor.digest))
                    for one in layers
                ]
            )
            self._warn(found, described)
        if self._syft:
            tables = [(self._toc(one), str(one.descriptor.digest)) for one in layers]
            with self._snapshots.mounted(Snapshot(tuple(layers))) as root:
                document = self._run_syft(root, described)
            add_layers(document, tables)
            return self._listing(found, described, document)
        return self._listing(found, described)

    def _of_context(self, context: ContextDirectory, described: Described) -> SbomDocuments:
        """The packages in the files of a context that are not ignored, and those that a project
        there is built with.
        """
        found = None
        if not self._syft or self._options.cyclonedx:
            items = scan(context.path, prune=context.prune).items()
            found = take_inventory((facts, "") for facts in read_tree(items, source=True))
            self._warn(found, described)
        document = self._run_syft(context.path, described) if self._syft else None
        return self._listing(found, described, document)

    def _listing(
        self,
        found: Inventory | None,
        described: Described,
        document: Mapping[str, Any] | None = None,
    ) -> SbomDocuments:
        if document is None:
            assert found is not None
            document = spdx(found, described)
        if not self._options.cyclonedx:
            return SbomDocuments(document)
        assert found is not None
        return SbomDocuments(document, cyclonedx(found, described))

    def _warn(self, found: Inventory, described: Described) -> None:
        if found.gaps:
            more = f", and {len(found.gaps) - 1} more" if found.gaps[1:] else ""
            self._step.warn(
                f"the SBOM of {described.name} is incomplete: {found.gaps[0]}{more}",
                f"the document says so too, in a comment that begins with {INCOMPLETE!r}",
            )

    def _toc(self, layer: Layer) -> Toc:
        return self._snapshots.table(Snapshot((layer,))).tocs[0]

    def _facts(self, layer: Layer) -> list[FileFacts]:
        return self._once.get(layer.files_id, lambda: self._known(layer))

    def _known(self, layer: Layer) -> list[FileFacts]:
        key = f"sbom-{VERSION} {layer.files_id}"
        if (kept := self._cache.remote_file(key)) is not None:
            try:
                raw = fetch_all(self._blobs.store, kept.content, _FACTS_LIMIT)
                return [FileFacts.from_json(one) for one in json.loads(raw)]
            except (ContentError, NotFound, ValueError, TypeError):
                pass
        wanted = {one.path for one in self._toc(layer).entries() if _is_wanted(one)}
        found: list[FileFacts] = []
        if wanted:
            name = f"scan {layer.descriptor.digest.short} for packages"
            with self._limit, self._step.step(name, kind="internal"):
                found = self._read(layer, wanted)
        content = json.dumps([one.to_json() for one in found]).encode()
        self._cache.put_remote_file(
            key, RemoteFile(self._blobs.store.add(content, "application/json"))
        )
        return found

    def _read(self, layer: Layer, wanted: set[str]) -> list[FileFacts]:
        """What the files say, from the unpacked layer, or else from its blob."""
        links: dict[str, str] = {}
        with self._items(layer, wanted) as items:
            found = [*read_tree(_noting_links(items, wanted, links))]
        found += _repeated(found, links)
        others = {path: target for path, target in links.items() if target not in wanted}
        if others:
            with self._items(layer, wanted) as items:
                found += _linked(items, others)
        return found

    @contextmanager
    def _items(self, layer: Layer, wanted: set[str]) -> Iterator[Iterator[Item]]:
        """All files of a layer, or those that are wanted."""
        compression = media.compression(layer.descriptor.media_type)
        if compression is None:
            raise ContentError(
                f"{layer.descriptor.media_type} is not a layer", code="layer-unsupported"
            )
        if self._files.has(layer.files_id):
            with self._snapshots.mounted(Snapshot((layer,))) as root:
                yield _files_at(root, wanted, self._toc(layer))
        else:
            with self._blobs.fetch(layer.descriptor) as blob:
                yield layer_items(layer, decompress(blob, compression))

    def _run_syft(self, root: Path, described: Described) -> dict[str, Any]:
        """The SPDX document of syft, with what makes equal scans equal. Raises ContentError."""
        words = [self._syft, "scan", f"dir:{root}", "-o", "spdx-json", "--quiet"]
        words += ["--source-name", described.name]
        catalogers = "image" if described.kind == "image" else "directory"  # else by the scheme
        parts: list[bytes] = []
        with TemporaryFile() as errors:
            done = run_process(
                words,
                directory=Path("/"),
                environ={
                    **self._environ,
                    "SYFT_CHECK_FOR_APP_UPDATE": "false",
                    "SYFT_DEFAULT_CATALOGERS": catalogers,
                },
                timeout_s=_SYFT_S,
                write=lambda data: _collect(parts, data),
                stderr=errors,
            )
            errors.seek(0)
            said = errors.read(2000).decode("utf-8", "replace").strip()
        if done.status or done.timed_out:
            raise ContentError(
                f"syft failed with status {done.status}: {said}",
                code="sbom-scanner-failed",
                hint="--sbom=generator=builtin scans without it",
            )
        return _reproducible(b"".join(parts), described)


def _collect(parts: list[bytes], data: bytes) -> None:
    parts.append(data)
    if sum(map(len, parts)) > DOCUMENT_LIMIT:
        raise ContentError(
            "syft wrote more than 40 MiB",
            code="sbom-scanner-failed",
            hint="use --sbom=generator=builtin",
        )


def _reproducible(raw: bytes, described: Described) -> dict[str, Any]:
    """The document with the time of the image, and a namespace that depends on its content."""
    try:
        document = json.loads(raw)
        info = document["creationInfo"]
        info["created"] = described.created.partition(".")[0].removesuffix("Z") + "Z"
        info["creators"] = [*info["creators"], f"Tool: {TOOL}"]
        document["documentNamespace"] = ""
        digest = hashlib.sha256(json.dumps(document).encode()).hexdigest()
    except (ValueError, KeyError, TypeError) as error:
        raise ContentError(
            f"syft wrote no SPDX document: {error}", code="sbom-scanner-failed"
        ) from None
    document["documentNamespace"] = f"https://spdx.org/spdxdocs/{SYFT}-{digest[:32]}"
    found: dict[str, Any] = document
    return found


def add_layers(document: dict[str, Any], tables: Sequence[tuple[Toc, str]]) -> None:
    """Note at each file without a comment the layer that it is in, as BuildKit does."""
    for file in document.get("files") or ():
        if file.get("comment"):
            continue
        path = os.path.normpath(f"/{file.get('fileName', '')}").lstrip("/")
        for toc, digest in reversed(tables):
            if toc.row(path) is not None:
                file["comment"] = f"layerID: {digest}"
                break


def _is_wanted(entry: Entry) -> bool:
    return entry.kind == "file" and kind_of(entry.path, entry.mode, entry.size) is not None


def _files_at(root: Path, wanted: Iterable[str], toc: Toc) -> Iterator[Item]:
    """The wanted files of an unpacked layer, links followed inside of it; further names of a file
    are hard links to the first.
    """
    first: dict[tuple[int, Kind | None], str] = {}
    for path in sorted(wanted):
        entry = toc.lookup(path)
        try:
            place = resolve_in_root(root, path)
            status = place.stat()
        except (OSError, SandboxError):
            continue
        if entry is None or not S_ISREG(status.st_mode):
            continue
        kind = kind_of(path, entry.mode, entry.size)
        target = first.setdefault((status.st_ino, kind), path)
        if target == path:
            yield entry, Source(OpenDirectory(place.parent), place.name)
        else:
            yield entry._replace(kind="hardlink", link=target), None


def _repeated(found: Iterable[FileFacts], links: Mapping[str, str]) -> list[FileFacts]:
    """What files say by their other names."""
    known = {facts.path: facts for facts in found}
    return [replace(known[target], path=path) for path, target in links.items() if target in known]


def _noting_links(items: Iterable[Item], wanted: set[str], links: dict[str, str]) -> Iterator[Item]:
    """`items`; of the wanted ones that are hard links the targets are noted."""
    for entry, content in items:
        if entry.kind == "hardlink" and entry.path in wanted:
            links[entry.path] = entry.link
        yield entry, content


def _linked(items: Iterable[Item], links: Mapping[str, str]) -> Iterator[FileFacts]:
    """What files say that are hard links."""
    by_target: dict[str, list[str]] = {}
    for path, target in links.items():
        by_target.setdefault(target, []).append(path)
    for entry, content in items:
        if entry.kind == "file" and entry.path in by_target:
            first, *others = by_target[entry.path]
            kind = kind_of(first, entry.mode, entry.size)
            if kind is not None:
                facts = read_file(entry._replace(path=first), content, kind)
                yield facts
                yield from (replace(facts, path=other) for other in others)
