"""The straight line: a request -> stages -> graph -> layers -> images -> index -> names.

See ARCHITECTURE.md, "The straight line of a build".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from shipline import dockerfile as df
from shipline import sandbox
from shipline.build.assembly import (
    Assembled,
    Image,
    Recoder,
    assemble,
    codec_of,
    combine,
    format_of,
    formats_of,
    wants_index,
)
from shipline.build.attestation.attesting import Attestor, PackageScanner, new_id
from shipline.build.attestation.provenance import Invocation
from shipline.build.base_images import BaseImage
from shipline.build.block_indexes import BlockIndexes
from shipline.build.cache import Cache
from shipline.build.caching.remote import Known, RemoteCaches
from shipline.build.checks import check_dockerfile, show_findings, show_warnings, warnings_before
from shipline.build.clock import Clock, clock_of
from shipline.build.contexts import load_dockerfile, open_contexts
from shipline.build.engine_images import uses_local_images
from shipline.build.executor import Executor
from shipline.build.exporters import ARCHIVES, FILES, ExportSource, archived, export
from shipline.build.graph import MAIN_CONTEXT, ContextOp, ImageOp, Material, ScratchOp, Vertex, walk
from shipline.build.plan import plan_platforms
from shipline.build.publish import (
    UPLOADS,
    Results,
    Uploads,
    check_target,
    push_documents,
    push_tags,
    push_targets,
)
from shipline.build.remotes import open_remotes
from shipline.build.request import BuildRequest, OutputFormat
from shipline.build.selecting import ContextDirectory
from shipline.build.session import Session
from shipline.build.solver import Solver
from shipline.build.stages import StageState
from shipline.build.validation import request_warnings
from shipline.build.worker import FollowerGroup, Worker
from shipline.errors import DockerfileError
from shipline.events import Step
from shipline.history import FileTables
from shipline.oci import Descriptor, Platform, Reference
from shipline.tasks import Once, TaskGroup, run_all

if TYPE_CHECKING:
    from shipline.sandbox import Sandbox


class BuildResult(Struct, frozen=True):
    """The result in the format of its first pushed output, or else its first; `names` are all tags.

    `root` is the index, or the manifest of a single platform; `invocation` names this run;
    `provenance` is how the image of each platform was built, if the metadata is to have that, and
    `context` where the files of a remote context came from; `dependencies` are the images and files
    that were fetched, each a URI with its digest; `documents` the JSON of the result, without
    layers. `by_manifest`: the engine that it was loaded into calls it by the digest of `root`.
    """

    root: Descriptor
    images: tuple[Image, ...]
    names: tuple[Reference, ...]
    invocation: str = ""
    provenance: Mapping[Platform, Mapping[str, Any]] = field(default_factory=dict)
    context: Material | None = None
    dependencies: tuple[Mapping[str, Any], ...] = ()
    documents: Mapping[Descriptor, bytes] = field(default_factory=dict)
    by_manifest: bool = False


def build_target(
    request: BuildRequest, session: Session, step: Step
) -> tuple[BuildResult, Results]:
    """Build `request` and deliver it to its outputs, tags last."""
    started_ns = time.time_ns()
    with ExitStack() as stack:
        build = _Build(request, session, step, stack)
        plan = build.plan(request)
        solved = build.solve(plan)
        run = Invocation(new_id(), started_ns, time.time_ns())
        attestor = Attestor(
            plan.request,
            plan.dockerfile,
            build.images.found,
            solved.solver,
            solved.contexts,
            run,
            solved.scanner,
            plan.generator,
        )
        results, by_manifest = build.deliver(plan, solved, attestor)
        return _result(plan, solved, attestor, results, run, by_manifest), results


class _Plan(Struct, frozen=True):
    """What is to be built: a request with its Dockerfile, and a stage for each platform."""

    request: BuildRequest
    dockerfile: df.Dockerfile
    stages: list[StageState]
    clock: Clock
    generator: BaseImage | None = None

    @property
    def roots(self) -> list[Vertex]:
        return [stage.vertex for stage in self.stages]


class _Solved(Struct, frozen=True):
    """The solved graph, and what made it."""

    solver: Solver
    worker: Worker
    recoder: Recoder
    contexts: Mapping[str, ContextDirectory]
    scanner: PackageScanner | None


class _Build:
    """The phases of one build, in turn: `plan`, `solve`, `deliver`.

    All that it opens goes with `stack`, which waits for what is done `beside` them.
    """

    def __init__(
        self, request: BuildRequest, session: Session, step: Step, stack: ExitStack
    ) -> None:
        settings, blobs = session.settings, session.blobs
        self._session = session
        self._step = step
        self._stack = stack
        self._targets = push_targets(request, settings.repositories)
        asking = stack.enter_context(TaskGroup(UPLOADS))
        for target in self._targets:
            asking.start(check_target, target)
        self._agents = settings.agents_of(request)
        self._scratch = session.scratch / f"target-{new_id()}"
        self._scratch.mkdir()
        self._caches = RemoteCaches(request.cache, settings.open_cache, blobs, self._scratch, step)
        self._beside = stack.enter_context(TaskGroup())
        policy = settings.source_policy(request)
        sources = Cache(session.records, blobs, settings.home)
        self._remotes = open_remotes(request, settings, self._scratch, sources, blobs.store, policy)
        self.images = session.images.under_policy(
            policy, local=uses_local_images(request), contexts=request.build_contexts
        )
        self._reading = self._caches.start_reading(self._beside)

    def plan(self, request: BuildRequest) -> _Plan:
        """The stages of the Dockerfile, once for each platform. Raises DockerfileError."""
        images, step, stdin = self.images, self._step, self._session.settings.stdin
        try:
            request, dockerfile = load_dockerfile(request, stdin, self._remotes, images, step)
        except DockerfileError as error:
            show_warnings(warnings_before(error, request), step)
            raise
        for warning in request_warnings(request, dockerfile.directives.syntax):
            step.warn(*warning)
        try:
            stages = plan_platforms(request, dockerfile, images)
        except DockerfileError:
            show_findings(request, dockerfile, images, step)
            raise
        check_dockerfile(request, dockerfile, images, step, self._stack)
        generator = None
        if request.sbom is not None and request.sbom.is_image:
            from shipline.build.attestation.generator import resolve_generator  # slow to import

            generator = resolve_generator(request.sbom, images)
        return _Plan(request, dockerfile, stages, clock_of(request, dockerfile), generator)

    def solve(self, plan: _Plan) -> _Solved:
        """Make every layer, and upload each as soon as it is known."""
        request, step, caches = plan.request, self._step, self._caches
        settings, blobs = self._session.settings, self._session.blobs
        worker = self._worker(plan)
        executor = Executor(
            sandbox=self._sandbox(),
            secrets=settings.secrets_of(request),
            agents=self._agents,
            environment=settings.environment,
            state=settings.home,
            mounts=caches.mounts,
        )
        contexts = open_contexts(request, settings.home, self._scratch, self._stack, step)
        recoder = Recoder(blobs, worker.cache, step)
        scanner = self._scanner(plan, worker, executor)
        with TaskGroup(UPLOADS) as group:
            uploads = Uploads(group, self._targets, blobs, recoder, worker.codec, step)

            def followers(published: bool) -> FollowerGroup | None:
                pushed = (uploads,) if self._targets and published else ()
                return FollowerGroup((*pushed, *caches.followers(published))) or None

            solver = Solver(
                worker,
                executor,
                self._remotes,
                contexts,
                self.images.found,
                step,
                followers,
                caches.on_result,
                self._session.commands,
            )
            known: Known = {}
            if caches.wanted:
                pushed = {str(one) for one in self._targets}
                caches.start(group, plan.roots, recoder, worker.cache, worker.codec, pushed)
                known = caches.find(
                    self._reading.result(),
                    plan.roots,
                    self.images.found,
                    _local_files(plan.roots, contexts, solver),
                    variant=plan.clock.variant,
                    at_once=request.is_piped,
                )
            _solve_stages(plan.roots, solver, uploads, scanner, known)
            if request.sbom is not None:
                _solve_scanned(plan.stages, solver)
            for one in contexts.values():  # while the result is delivered
                if one.cache is not None and one.cache.changed:
                    self._beside.start(one.cache.save)
        return _Solved(solver, worker, recoder, contexts, scanner)

    def _worker(self, plan: _Plan) -> Worker:
        session = self._session
        home, store = session.settings.home, session.blobs.store
        return Worker(
            store=store,
            snapshots=session.snapshots,
            cache=session.layer_cache(plan.clock.variant),
            codec=codec_of(formats_of(plan.request)[0]),
            clock=plan.clock,
            scratch=self._scratch,
            indexes=BlockIndexes(
                home,
                store,
                session.files,
                self._scratch,
                on_replaced=partial(self._beside.start, session.drop_unused, self._step),
            ),
            tables=FileTables(home),
        )

    def _sandbox(self) -> Callable[[], Sandbox]:
        """The sandbox, opened when it is first used."""
        opened: Once[Sandbox] = Once()

        def show(network: str) -> None:
            with self._step.step(f"network of RUN: {network}", kind="internal"):
                pass

        def open_() -> Sandbox:
            return self._stack.enter_context(sandbox.open_sandbox(self._scratch, on_network=show))

        return lambda: opened.get("sandbox", open_)

    def _scanner(self, plan: _Plan, worker: Worker, executor: Executor) -> PackageScanner | None:
        """What lists packages: this program, or the image of a generator; None without `--sbom`."""
        request, session, step = plan.request, self._session, self._step
        if request.sbom is None:
            return None
        if plan.generator is not None:
            from shipline.build.attestation.generator import ImageScanner  # slow to import

            parameters, fresh = dict(request.sbom.parameters), request.cache.disabled
            return ImageScanner(plan.generator, parameters, worker, executor, step, fresh=fresh)
        from shipline.build.attestation.scanning import SbomScanner  # slow to import

        name = request.tags[0].name if request.tags else "image"
        environ = session.settings.environment
        return SbomScanner(request.sbom, name, environ, session.blobs, session.files, worker, step)

    def deliver(self, plan: _Plan, solved: _Solved, attestor: Attestor) -> tuple[Results, bool]:
        """Assemble the images and deliver them to every output, tags last; what `export` says."""
        request, step, caches = plan.request, self._step, self._caches
        session, settings = self._session, self._session.settings
        by_manifest = False
        with TaskGroup() as group:
            if session.files.unsynced:
                group.start(session.files.sync)
            written = None
            if caches.wanted:
                codec = solved.worker.codec
                written = group.start(caches.finish, plan.roots, solved.solver, codec, Clock().now)
            results = {
                format: _assemble(format, plan, solved, attestor, caches)
                for format in formats_of(request)
            }
            for image in next(iter(results.values())).images:
                step.note(**{f"image.size|{step.target}|{image.platform}": image.size})
            push_documents(results, self._targets, step)
            for output in request.outputs:
                result = results[format_of(output, request)]
                stated = attestor.of_all(plan.stages, result.images) if output.type in FILES else {}
                source = ExportSource(
                    result,
                    request.names_of(output),
                    session.blobs,
                    solved.worker.snapshots,
                    plan.clock.now_ns(),
                    settings.environment,
                    stated,
                    dated=plan.clock.epoch is not None and output.epoch != "",
                )
                by_manifest |= export(output, source, settings.stdout, step)
            if written is not None and caches.required:
                written.result()
            push_tags(results, self._targets, step)
        return results, by_manifest


def _local_files(
    roots: Sequence[Vertex], contexts: Mapping[str, ContextDirectory], solver: Solver
) -> dict[Vertex, ContextDirectory]:
    """The files of each vertex that has no inputs and is not an image; downloads are made now."""
    leaves = [one for one in walk(*roots) if not one.inputs]
    fetched = [one for one in leaves if not isinstance(one.op, ScratchOp | ImageOp | ContextOp)]
    with TaskGroup() as group:
        solver.start(group, *fetched)
    found = {one: contexts[one.op.name] for one in leaves if isinstance(one.op, ContextOp)}
    downloaded = {one: solver.result(one).files for one in fetched}
    for one, files in downloaded.items():
        if isinstance(files, ContextDirectory):
            files.open()
            found[one] = files
    return found


def _solve_stages(
    roots: Sequence[Vertex],
    solver: Solver,
    uploads: Uploads,
    scanner: PackageScanner | None,
    known: Known,
) -> None:
    """Solve all stages; each layer is handed to `uploads` and `scanner` as soon as it is known."""

    def send(root: Vertex) -> None:
        for layer, result in solver.layers(root):
            uploads.send(layer, result)
            if scanner is not None:
                group.start(scanner.prepare, layer)

    with TaskGroup() as group:
        solver.start(group, *roots, known=known)
        run_all(send, roots)


def _solve_scanned(stages: Iterable[StageState], solver: Solver) -> None:
    """Solve the stages whose packages are to be listed, where the result did not need them."""
    vertices = [vertex for stage in stages for _, vertex in stage.scanned]
    wanted = [one for one in vertices if not isinstance(one.op, ContextOp)]
    with TaskGroup() as group:
        solver.start(group, *(one for one in wanted if not solver.is_solved(one)))


def _assemble(
    format: OutputFormat, plan: _Plan, solved: _Solved, attestor: Attestor, caches: RemoteCaches
) -> Assembled:
    def created(vertex: Vertex) -> str:
        added = solved.solver.result(vertex).added
        return added.created if added is not None else ""

    images, attestations = [], []
    for stage in plan.stages:
        found = solved.solver.layers(stage.vertex)
        layers = [solved.recoder.recode(layer, result, format) for layer, result in found]
        stage = caches.with_inline(stage, layers, solved.solver)
        images.append(assemble(stage, layers, created, plan.clock, format))
        if format.attested:
            attestations.append(attestor.manifest(stage, images[-1], artifact=format.artifact))
    indexed = wants_index(plan.request)
    return combine(images, format, indexed=indexed, attestations=attestations)


def _result(
    plan: _Plan,
    solved: _Solved,
    attestor: Attestor,
    results: Results,
    run: Invocation,
    by_manifest: bool,
) -> BuildResult:
    request = plan.request
    first = results[formats_of(request)[0]]
    provenance = {
        image.platform: attestor.provenance_for_metadata(stage, image, request.metadata_provenance)
        for stage, image in zip(plan.stages, first.images, strict=True)
        if request.metadata_provenance is not None
    }
    archive = request.outputs and all(one.type in ARCHIVES for one in request.outputs)
    return BuildResult(
        root=archived(first) if archive else first.descriptor,
        images=first.images,
        names=request.tags,
        invocation=run.id,
        provenance=provenance,
        context=next(iter(solved.contexts[MAIN_CONTEXT].materials), None),
        dependencies=attestor.dependencies(plan.stages),
        documents=first.documents,
        by_manifest=by_manifest,
    )
