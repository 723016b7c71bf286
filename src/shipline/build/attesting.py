"""What a build states about its images: provenance, and lists of packages."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any

from shipline import dockerfile as df
from shipline.build.assembly import Image
from shipline.build.attestations import AttestationManifest, Predicate, attest_image
from shipline.build.base_images import BaseImage
from shipline.build.graph import ImageOp, Origin, Vertex
from shipline.build.provenance import TYPES, Built, Invocation, provenance
from shipline.build.request import BuildRequest, ProvenanceOptions
from shipline.build.snapshots import Snapshot
from shipline.build.solver import Solver
from shipline.build.stages import StageState
from shipline.oci import Descriptor, Platform

_LETTERS = string.ascii_lowercase + string.digits


def new_id() -> str:
    """A random name for a run of the builder, like those of BuildKit."""
    return "".join(secrets.choice(_LETTERS) for _ in range(25))


class Attestor:
    """Makes the statements that a request asks for, when everything is built."""

    def __init__(
        self,
        request: BuildRequest,
        dockerfile: df.Dockerfile,
        images: Mapping[ImageOp, BaseImage],
        solver: Solver,
        run: Invocation,
    ) -> None:
        self._request = request
        self._dockerfile = dockerfile
        self._images = images
        self._solver = solver
        self._run = run

    def manifest(self, stage: StageState, image: Image, *, artifact: bool) -> AttestationManifest:
        """The statements about an image, for its index."""
        target = image.manifest.descriptor
        predicates = self.predicates(stage, image)
        names = self._request.tags
        return attest_image(target, image.platform, predicates, names, artifact=artifact)

    def of_all(
        self, stages: Sequence[StageState], images: Sequence[Image]
    ) -> dict[Platform, list[Predicate]]:
        """The statements about the image of each platform."""
        pairs = zip(stages, images, strict=True)
        return {image.platform: self.predicates(stage, image) for stage, image in pairs}

    def predicates(self, stage: StageState, image: Image) -> list[Predicate]:
        """What is stated about one image."""
        found = []
        if (options := self._request.provenance) is not None:
            document = self.provenance(stage, image, options)
            kind, name = TYPES[options.version], options.filename
            found.append(Predicate(kind, document, name, options.inline_only))
        return found

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

        def origins(vertex: Vertex) -> Sequence[Origin]:
            return self._solver.result(vertex).origins if self._solver.is_solved(vertex) else ()

        built = Built(stage.vertex, self._images, origins, layers, self._dockerfile, self._run)
        return provenance(self._request, built, options)
