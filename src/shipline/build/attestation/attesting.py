"""What a build states about its images: provenance, and lists of packages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from shipline import dockerfile as df
from shipline.build.assembly import Image
from shipline.build.attestation.manifest import Attestation, AttestationManifest, attest_image
from shipline.build.attestation.provenance import (
    TYPES,
    Built,
    Invocation,
    dependencies,
    provenance_for_metadata,
    provenance_of,
)
from shipline.build.base_images import BaseImage
from shipline.build.graph import ContextOp, ImageOp, Material, Vertex, walk
from shipline.build.request import BuildRequest, ProvenanceOptions
from shipline.build.selecting import ContextDirectory
from shipline.build.snapshots import Snapshot
from shipline.build.solver import Solver
from shipline.build.stages import StageState
from shipline.build.worker import Source
from shipline.layer import Layer
from shipline.oci import Descriptor, Platform

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def new_id() -> str:
    """A random name for a run of the builder, like those of BuildKit."""
    return "".join(_LETTERS[byte % 36] for byte in os.urandom(25))


class PackageScanner(Protocol):
    """What `--sbom` lists packages with; safe to use from any thread."""

    def prepare(self, layer: Layer) -> None:
        """Read what can be read of a layer before the image is complete."""

    def attestations(self, image: Image, extras: Mapping[str, Source]) -> list[Attestation]:
        """The packages of an image, and those of stages and contexts by name; the list of the
        image's own packages first. Raises ContentError, StepFailed.
        """


class Attestor:
    """Makes the attestations of a request, after everything was built."""

    def __init__(
        self,
        request: BuildRequest,
        dockerfile: df.Dockerfile,
        images: Mapping[ImageOp, BaseImage],
        solver: Solver,
        contexts: Mapping[str, ContextDirectory],
        run: Invocation,
        scanner: PackageScanner | None,
        generator: BaseImage | None,
    ) -> None:
        self._request = request
        self._dockerfile = dockerfile
        self._images = images
        self._solver = solver
        self._contexts = contexts
        self._run = run
        self._scanner = scanner
        self._generator = generator

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
        found: list[Attestation] = []
        if self._scanner is not None:
            extras = {name: self._files(vertex) for name, vertex in stage.scanned}
            found += self._scanner.attestations(image, extras)
        if (options := self._request.provenance) is not None:
            document = self.provenance(stage, image, options)
            kind, name = TYPES[options.version], options.filename
            found.append(Attestation(kind, document, name, options.inline_only))
        return found

    def _files(self, vertex: Vertex) -> Source:
        """The files of a stage or a context."""
        if isinstance(vertex.op, ContextOp):
            return self._contexts[vertex.op.name]
        return self._solver.result(vertex).snapshot

    def provenance(
        self, stage: StageState, image: Image, options: ProvenanceOptions
    ) -> Mapping[str, Any]:
        """How the image was built."""
        return provenance_of(self._request, self._solved(stage, image), options)

    def provenance_for_metadata(
        self, stage: StageState, image: Image, mode: Literal["min", "max"]
    ) -> Mapping[str, Any]:
        """How the image was built, in `--metadata-file`."""
        return provenance_for_metadata(self._request, self._solved(stage, image), mode)

    def _solved(self, stage: StageState, image: Image) -> Built:
        chain = {*stage.vertex.chain()}

        def layers(vertex: Vertex) -> list[Descriptor]:
            if not self._solver.is_solved(vertex):
                return []  # a cache made it unnecessary
            files = self._solver.result(vertex).files
            found = files.layers if isinstance(files, Snapshot) else ()
            own = image.layers[: len(found)] if vertex in chain else found
            return [layer.descriptor for layer in own]

        return self._built(stage, layers)

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

        return Built(
            stage.vertex,
            self._images,
            materials,
            layers,
            self._dockerfile,
            self._run,
            self._generator,
        )
