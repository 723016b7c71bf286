"""Lists of packages from the image of a scanner: `--sbom=generator=IMAGE`, as BuildKit runs it.

Source: BuildKit, docs/attestations/sbom-protocol.md and frontend/attestations/sbom/sbom.go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipline.build.attestation.manifest import Attestation
from shipline.build.attestation.scanning import DOCUMENT_LIMIT, add_layers
from shipline.build.base_images import BaseImage, RegistryImages
from shipline.build.cache import RemoteFile
from shipline.build.executor import Executor
from shipline.build.graph import RunMount, RunOp
from shipline.build.request import SbomOptions
from shipline.build.running import executed, run_key
from shipline.build.snapshots import Snapshot
from shipline.build.worker import Source, StepOptions, Worker
from shipline.content import fetch_all
from shipline.errors import ContentError, NotFound, ShiplineError
from shipline.events import Step
from shipline.layer import Layer, Toc
from shipline.oci import Platform
from shipline.sandbox import BindMount
from shipline.sbom import TOOL
from shipline.tasks import Once

if TYPE_CHECKING:
    from shipline.build.assembly import Image

_SOURCE, _DESTINATION = "/run/src", "/run/out"
_CORE = "sbom"
_PROVENANCE = "https://slsa.dev/provenance/"
_ALL_LIMIT = 256 << 20  # bytes

Documents = list[tuple[str, str, dict[str, Any]]]
"""File name, predicate type and predicate of each document of a scan."""


def resolve_generator(options: SbomOptions, images: RegistryImages) -> BaseImage:
    """The image of the scanner, for this machine. Raises NotFound, ContentError."""
    try:
        image = images.resolve(options.generator, Platform.local())
    except NotFound as error:
        raise NotFound(
            f"the generator of --sbom: {error.message}",
            code="sbom-generator",
            hint="name an image, or omit generator= to use the built-in scanner",
        ) from None
    if not _command(image):
        raise ContentError(
            f"--sbom: the generator {image.shown} has no command", code="sbom-generator"
        )
    return image


def _command(image: BaseImage) -> tuple[str, ...]:
    run = image.config.run
    return (*(run.get("Entrypoint") or ()), *(run.get("Cmd") or ()))


class ImageScanner:
    """A PackageScanner that runs the image `generator`. Results are cached by what was scanned;
    with `fresh`, within this build only.
    """

    def __init__(
        self,
        generator: BaseImage,
        parameters: Mapping[str, str],
        worker: Worker,
        executor: Executor,
        step: Step,
        *,
        fresh: bool,
    ) -> None:
        self._generator = generator
        self._parameters = parameters
        self._worker = worker
        self._executor = executor
        self._step = step
        self._fresh = fresh
        self._once: Once[Documents] = Once()

    def prepare(self, layer: Layer) -> None:
        """Does nothing: the generator gets all layers at once."""

    def attestations(self, image: Image, extras: Mapping[str, Source]) -> list[Attestation]:
        """See `PackageScanner`."""
        scanned = Snapshot(tuple(image.layers))
        inputs = (Snapshot(self._generator.layers), scanned, *extras.values())
        op = self._operation(list(extras))
        key = run_key(op, inputs)
        found = self._once.get(key, lambda: self._documents(key, op, inputs, image.platform))
        tocs = self._worker.snapshots.table(scanned).tocs
        digests = [str(layer.descriptor.digest) for layer in scanned.layers]
        tables = [*zip(tocs, digests, strict=True)]
        return [
            Attestation(kind, _with_layers(document, tables) if _is_core(name) else document, name)
            for name, kind, document in sorted(found, key=lambda one: not _is_core(one[0]))
        ]

    def _operation(self, extras: Sequence[str]) -> RunOp:
        """The step in which the scanner runs: input 1 is the image, those after it are `extras`."""
        source = f"{_SOURCE}/core/{_CORE}"
        variables = {
            **self._generator.config.env,
            "BUILDKIT_SCAN_DESTINATION": f"{_DESTINATION}/",
            "BUILDKIT_SCAN_SOURCE": source,
            **({"BUILDKIT_SCAN_SOURCE_EXTRAS": f"{_SOURCE}/extras"} if extras else {}),
            **{f"BUILDKIT_SCAN_{name}": value for name, value in self._parameters.items()},
        }
        targets = [source, *(f"{_SOURCE}/extras/{_CORE}-{name}" for name in extras)]
        return RunOp(
            args=_command(self._generator),
            env=tuple(f"{name}={value}" for name, value in variables.items()),
            cwd=self._generator.config.run.get("WorkingDir") or "/",
            user="",
            platform=str(self._generator.config.platform),
            mounts=(
                RunMount("tmpfs", "/tmp"),
                *(
                    RunMount("bind", target, input=number, read_only=True)
                    for number, target in enumerate(targets, 1)
                ),
            ),
        )

    def _documents(
        self, key: str, op: RunOp, inputs: Sequence[Source], platform: Platform
    ) -> Documents:
        cache, store = self._worker.cache, self._worker.store
        kept = None if self._fresh else cache.remote_file(f"sbom-generator-1 {key}")
        if kept is not None:
            with suppress(ContentError, NotFound, ValueError, TypeError):
                raw = fetch_all(store, kept.content, _ALL_LIMIT)
                return [(name, kind, dict(document)) for name, kind, document in json.loads(raw)]
        place = self._worker.temporary("scan")
        place.mkdir(mode=0o755)
        name = f"[{platform}] generating sbom using {self._generator.shown}"
        with self._step.step(name, kind="run", platform=op.platform) as step:
            out = BindMount(place, _DESTINATION, read_only=False)
            options = StepOptions(step, fresh=self._fresh)
            with executed(op, inputs, self._worker, self._executor, options, more=(out,)):
                pass
            found = self._read(place)
        added = store.add(json.dumps(found).encode(), "application/json")
        cache.put_remote_file(f"sbom-generator-1 {key}", RemoteFile(added))
        return found

    def _read(self, place: Path) -> Documents:
        """The statements that the scanner wrote, each a file in its destination."""
        found: Documents = []
        size = 0
        for path in sorted(place.iterdir()):
            try:
                if path.is_symlink() or not path.is_file():
                    raise ContentError("it is not a regular file", code="sbom-generator")
                size += path.stat().st_size
                if path.stat().st_size > DOCUMENT_LIMIT or size > _ALL_LIMIT:
                    raise ContentError(
                        "it is larger than 40 MiB, or all files together are larger than 256 MiB",
                        code="sbom-generator",
                    )
                found.append((path.name, *_statement(path.read_bytes())))
            except ShiplineError as error:
                name = self._generator.shown
                raise ContentError(
                    f"--sbom: the generator {name} wrote {path.name}: {error.message}",
                    code="sbom-generator",
                    hint="files in $BUILDKIT_SCAN_DESTINATION must be in-toto statements in JSON",
                ) from None
        return found


def _is_core(name: str) -> bool:
    return name.partition(".")[0] == _CORE


def _with_layers(document: dict[str, Any], tables: Sequence[tuple[Toc, str]]) -> dict[str, Any]:
    """A copy of an SPDX document that names this program, and the layers of the files; any other
    document as it is.
    """
    copy = json.loads(json.dumps(document))
    try:
        copy["creationInfo"]["creators"].append(f"Tool: {TOOL}")
        add_layers(copy, tables)
    except (KeyError, TypeError, AttributeError):
        return document
    found: dict[str, Any] = copy
    return found


def _statement(raw: bytes) -> tuple[str, dict[str, Any]]:
    """The predicate of an in-toto statement, and its type. Raises ContentError."""
    try:
        document = json.loads(raw)
        kind, predicate = document["predicateType"], document["predicate"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ContentError("it is not an in-toto statement", code="sbom-generator") from None
    if not isinstance(kind, str) or not isinstance(predicate, dict):
        raise ContentError("it is not an in-toto statement", code="sbom-generator")
    if kind.startswith(_PROVENANCE):
        raise ContentError("only the builder writes provenance", code="sbom-generator")
    return kind, predicate
