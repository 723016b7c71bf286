"""What a build states about its images: provenance, and lists of packages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shipline import dockerfile as df
from shipline.build.assembly import Image
from shipline.build.attestation.manifest import Attestation, AttestationManifest, attest_image
from shipline.build.attestation.provenance import (
    TYPES,
    Built,
    Invocation,
    dependencies,
    provenance_of,
)
from shipline.build.base_images import BaseImage
from shipline.build.graph import ContextOp, ImageOp, Material, Vertex, walk
from shipline.build.request import BuildRequest, ProvenanceOptions
from shipline.build.selecting import ContextDirectory
from shipline.build.snapshots import Snapshot
from shipline.build.solver import Solver
from shipline.build.stages import StageState
from shipline.oci import Descriptor, Platform

if TYPE_CHECKING:
    from shipline.build.attestation.generator import ImageScanner
    from shipline.build.attestation.scanning import SbomDocuments, SbomScanner

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def new_id() -> str:
    """A random name for a run of the builder, like those of BuildKit."""
    return "".join(_LETTERS[byte % 36] for byte in os.urandom(25))


class Attestor:
    """Makes the attestations of a request, after everything was built."""

    def __init__(
        self,
        request: BuildRequest,
        dockerfile: df.Dockerfile,
        images: Mapping[ImageOp, BaseImage],
        solver: Solver,
        run: Invocation,
        scanner: SbomScanner | None = None,
        generator: ImageScanner | None = None,
        contexts: Mapping[str, ContextDirectory] | None = None,
    ) -> None:
        self._request = request
        self._dockerfile = dockerfile
        self._images = images
        self._solver = solver
        self._run = run
        self._scanner = scanner
        self._generator = generator
        self._contexts = contexts or {}

    def manifest(self, stage: StageState, image: Image, *, artifact: bool) -> AttestationManifest:
        """The statements about an image, for its index."""
        target = image.manifest.descriptor
        attestations = self.attestations(stage, image)
        names = self._request.tags
        return attest_image(target, image.platform, attestations, names, artifact=artifact)

    def of_all(
        self, stages: Sequence[StageState], images: Sequence[Image]
    ) -> dict[Platform, list[Attestation]]:
        """The statements about the image of each platform."""
        pairs = zip(stages, images, strict=True)
        return {image.platform: self.attestations(stage, image) for stage, image in pairs}

    def attestations(self, stage: StageState, image: Image) -> list[Attestation]:
        """What is stated about one image."""
        found = [*self._listings(stage, image), *self._generated(stage, image)]
        if (options := self._request.provenance) is not None:
            document = self.provenance(stage, image, options)
            kind, name = TYPES[options.version], options.filename
            found.append(Attestation(kind, document, name, options.inline_only))
        return found

    def _listings(self, stage: StageState, image: Image) -> Iterator[Attestation]:
        """The packages of the image, then those of stages and of the context."""
        scanner, created = self._scanner, image.config.created
        if scanner is None:
            return
        from shipline.sbom import Described  # slow to import

        name = self._request.tags[0].name if self._request.tags else "image"
        about = Described(name, str(image.manifest.descriptor.digest), "image", created)
        yield from _listed("sbom", scanner.of_snapshot(image.layers, about))
        for name, vertex in stage.scanned:
            file = f"sbom-{name}"
            if isinstance(vertex.op, ContextOp):
                about = Described(name, "", "source", created)
                yield from _listed(file, scanner.of_context(self._contexts[vertex.op.name], about))
            else:
                about = Described(name, "", "image", created)
                layers = self._solver.result(vertex).snapshot.layers
                yield from _listed(file, scanner.of_snapshot(layers, about))

    def _generated(self, stage: StageState, image: Image) -> list[Attestation]:
        """What the image of a scanner says."""
        if self._generator is None:
            return []
        extras = {name: self._files(vertex) for name, vertex in stage.scanned}
        return self._generator.attestations(image.platform, image.layers, extras)

    def _files(self, vertex: Vertex) -> Snapshot | ContextDirectory:
        """What a stage or a context has in it."""
        if isinstance(vertex.op, ContextOp):
            return self._contexts[vertex.op.name]
        return self._solver.result(vertex).snapshot

    def provenance(
        self, stage: StageState, image: Image, options: ProvenanceOptions
    ) -> Mapping[str, Any]:
        """How the image was built."""
        chain = {*stage.vertex.chain()}

        def layers(vertex: Vertex) -> list[Descriptor]:
            if not self._solver.is_solved(vertex):
                return []  # a cache made it unnecessary
            files = self._solver.result(vertex).files
            found = files.layers if isinstance(files, Snapshot) else ()
            own = image.layers[: len(found)] if vertex in chain else found
            return [layer.descriptor for layer in own]

        return provenance_of(self._request, self._built(stage, layers), options)

    def dependencies(self, stages: Iterable[StageState]) -> tuple[Mapping[str, Any], ...]:
        """The images and files that were fetched, each once, with their digests by algorithm."""
        found = [
            one
            for stage in stages
            for one in dependencies(walk(stage.vertex), self._built(stage, lambda vertex: []))
        ]
        return tuple({one["uri"]: one for one in found}.values())

    def _built(self, stage: StageState, layers: Callable[[Vertex], Sequence[Descriptor]]) -> Built:
        def materials(vertex: Vertex) -> Sequence[Material]:
            return self._solver.result(vertex).materials if self._solver.is_solved(vertex) else ()

        generator = None if self._generator is None else self._generator.image
        return Built(
            stage.vertex, self._images, materials, layers, self._dockerfile, self._run, generator
        )


def _listed(name: str, listing: SbomDocuments) -> Iterator[Attestation]:
    from shipline.supply import CYCLONEDX, SPDX  # slow to import

    yield Attestation(SPDX, listing.spdx, f"{name}.spdx.json")
    if listing.cyclonedx is not None:
        yield Attestation(CYCLONEDX, listing.cyclonedx, f"{name}.cdx.json")
