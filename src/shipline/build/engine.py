"""The straight line: a request -> stages -> graph -> layers -> images -> index -> names.

See ARCHITECTURE.md, "The straight line of a build".
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
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
from shipline.build.base_images import BaseImage, RegistryImages
from shipline.build.blobs import Blobs, BrokenCache
from shipline.build.block_indexes import BlockIndexes
from shipline.build.cache import Cache, Running, open_records
from shipline.build.caching.remote import Known, RemoteCaches
from shipline.build.checks import check_dockerfile, show_findings, show_warnings, warnings_before
from shipline.build.clock import Clock, clock_of
from shipline.build.contexts import load_dockerfile, open_contexts
from shipline.build.disk import LIMIT_VARIABLE, grew, keep_once, kept_within, limit_of
from shipline.build.engine_images import EngineImages, uses_local_images
from shipline.build.executor import Executor
from shipline.build.exporters import (
    ARCHIVES,
    FILES,
    ExportSource,
    archived,
    check_engines,
    check_outputs,
    export,
)
from shipline.build.faults import Damage, repair, system_errors
from shipline.build.graph import MAIN_CONTEXT, ContextOp, ImageOp, Material, ScratchOp, Vertex, walk
from shipline.build.layer_files import USE_LOCK, LayerFiles
from shipline.build.plan import plan_platforms
from shipline.build.publish import (
    UPLOADS,
    PushTarget,
    Results,
    Uploads,
    check_target,
    push_documents,
    push_tags,
    push_targets,
)
from shipline.build.remotes import Remotes, open_remotes
from shipline.build.request import BuildRequest, OutputFormat, in_target, linked_targets
from shipline.build.selecting import ContextDirectory
from shipline.build.settings import Settings
from shipline.build.snapshots import Snapshots
from shipline.build.solver import Solver, command_limiter
from shipline.build.ssh import Agent
from shipline.build.stages import StageState
from shipline.build.validation import check_environment, check_request, request_warnings
from shipline.build.worker import FollowerGroup, Worker
from shipline.content import LocalStore, Recency
from shipline.errors import DockerfileError, ShiplineError, StepFailed
from shipline.events import Step
from shipline.history import FileTables
from shipline.layer import Layer
from shipline.metadata import Records
from shipline.oci import Descriptor, Digest, Platform, Reference
from shipline.sandbox import open_workspace, private_mounts
from shipline.tasks import Limiter, Once, Task, TaskGroup, run_all, visit_graph
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.build.caching.lookup import RemoteCache
    from shipline.sandbox import Sandbox


_TARGETS_AT_ONCE = 16  # most of them wait for their turn to run a command


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


def build(request: BuildRequest, settings: Settings, step: Step) -> BuildResult:
    """Build `request` and deliver it to its outputs. Raises the errors of shipline.errors.

    Tags are pushed last: when it raises before that, no tag has changed. The work is done on new
    threads, in a mount namespace that vanishes with them.
    """
    return build_targets({"": request}, settings, step)[""]


def build_targets(
    requests: Mapping[str, BuildRequest], settings: Settings, step: Step
) -> dict[str, BuildResult]:
    """Build several requests at once, by the names of targets: a context of kind TARGET is the
    result of another one, and what is equal is done once. As `build`; the first failure, which
    has the name of its target, stops the others.
    """
    settings = replace(settings, home=settings.home.absolute())
    for name, request in requests.items():
        with in_target(name):
            _check(request, settings)
    damage, started_ns = Damage(step), time.time_ns()
    with system_errors(settings.home):
        limit = limit_of(settings.environment.get(LIMIT_VARIABLE, ""), settings.home)
    with kept_within(limit, settings.home, step), system_errors(settings.home):
        try:
            return _on_threads(requests, settings, step, damage, verified=False)
        except BrokenCache as error:
            if any(map(_is_piped, requests.values())):
                raise
            step.warn(error.message, "the build starts again without --cache-from")
            requests = {name: _without_sources(one) for name, one in requests.items()}
        except (StepFailed, DockerfileError, BrokenPipeError):
            raise
        except (ShiplineError, OSError):
            repaired = repair(settings.home, damage, started_ns) or damage.found
            if not repaired or any(map(_is_piped, requests.values())):
                raise
        return _on_threads(requests, settings, step, damage, verified=True)


def _check(request: BuildRequest, settings: Settings) -> None:
    """Raises UsageError, EngineError for what can be known before the build."""
    check_request(request)
    check_environment(request, settings.environment)
    if request.sbom is not None and not request.sbom.is_image:
        from shipline.build.attestation.scanning import check_generator  # slow to import

        check_generator(request.sbom, settings.environment)
    check_outputs(request, settings.home)
    check_engines(request, settings.environment)


def _without_sources(request: BuildRequest) -> BuildRequest:
    return replace(request, cache=replace(request.cache, sources=()))


def _is_piped(request: BuildRequest) -> bool:
    """Whether the build reads or writes a stream, and cannot be repeated."""
    return request.reads_stdin or any(output.destination == "-" for output in request.outputs)


def _on_threads(
    requests: Mapping[str, BuildRequest],
    settings: Settings,
    step: Step,
    damage: Damage,
    *,
    verified: bool,
) -> dict[str, BuildResult]:
    """Build; `verified` checks the digest of stored content before it is used."""
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    recency = Recency(settings.home / USE_LOCK)
    store = LocalStore(settings.home / "content", damage, verified=verified, recency=recency)
    with TaskGroup() as group:
        task = group.start(_build_all, requests, settings, step, store, damage, verified)
    return task.result()


class _Session(Struct, frozen=True):
    """What the builds of one run share: `commands` limits how many run at once, `running` are the
    layers that one of them made or is making.
    """

    settings: Settings
    step: Step
    scratch: Path
    files: LayerFiles
    blobs: Blobs
    records: Records
    images: RegistryImages
    snapshots: Snapshots
    running: Running
    commands: Limiter


class _Tools(Struct, frozen=True):
    """What the phases of one build share; `scratch` and all that is open go with `stack`, which
    waits for what is done `beside` them.
    """

    session: _Session
    step: Step
    stack: ExitStack
    agents: Mapping[str, Agent]
    scratch: Path
    images: RegistryImages
    remotes: Remotes
    caches: RemoteCaches
    reading: Task[list[RemoteCache]]
    beside: TaskGroup


class _BuildPlan(Struct, frozen=True):
    """What is to be built: a request with its Dockerfile, and a stage for each platform."""

    request: BuildRequest
    dockerfile: df.Dockerfile
    stages: list[StageState]
    clock: Clock
    generator: BaseImage | None = None

    @property
    def roots(self) -> list[Vertex]:
        return [stage.vertex for stage in self.stages]


class _Work(Struct, frozen=True):
    """The solved graph, and what made it."""

    solver: Solver
    worker: Worker
    recoder: Recoder
    contexts: Mapping[str, ContextDirectory]
    scanner: PackageScanner | None


def _build_all(
    requests: Mapping[str, BuildRequest],
    settings: Settings,
    step: Step,
    store: LocalStore,
    damage: Damage,
    verified: bool,
) -> dict[str, BuildResult]:
    private_mounts()
    started_ns = time.time_ns()
    results: dict[str, BuildResult] = {}
    exported: set[Digest] = set()
    step = _named(step, *requests.values())
    with ExitStack() as stack:
        session = _open_session(settings, step, store, damage, verified, stack)

        def run(name: str) -> None:
            below = _named(step.within(target=name) if name else step, requests[name])
            with in_target(name):
                result, made = _build(requests[name], session, below)
            results[name] = result
            found = json.dumps(result.dependencies)
            step.note(**{f"materials {name}".rstrip(): found})
            exported.update(_exported(requests[name], made))
            session.images.add_target(name, result.images)

        def needed(name: str) -> list[str]:
            return [one for one in linked_targets(requests[name]) if one in requests]

        visit_graph(requests, needed, run, at_once=_TARGETS_AT_ONCE)
        if grew(settings.home, started_ns / 1e9):
            keep_once(
                settings.home,
                session.scratch,
                session.records,
                session.files,
                step,
                exported=exported,
                pulled=_pulled(session),
            )
    return {name: results[name] for name in requests}


def _named(step: Step, *requests: BuildRequest) -> Step:
    """The step, whose children are not named after their platform where there is one alone."""
    platforms = {one for request in requests for one in request.target_platforms}
    return step.within(single=True) if len(platforms) == 1 else step


def _open_session(
    settings: Settings,
    step: Step,
    store: LocalStore,
    damage: Damage,
    verified: bool,
    stack: ExitStack,
) -> _Session:
    scratch = stack.enter_context(open_workspace(settings.home))
    files = LayerFiles(settings.home, scratch, damage, verified=verified)
    blobs = Blobs(store, step, files)
    records = stack.enter_context(open_records(settings.home / "cache.db", damage))
    engine = EngineImages(settings, blobs, records, scratch)
    session = _Session(
        settings=settings,
        step=step,
        scratch=scratch,
        files=files,
        blobs=blobs,
        records=records,
        images=RegistryImages(settings.repositories, blobs, step, engine),
        snapshots=Snapshots(settings.home, scratch, blobs, files, step),
        running=Running(),
        commands=command_limiter(),
    )
    _close_to_others(settings.home)
    return session


def _close_to_others(home: Path) -> None:
    """Images and files of contexts are not for other users, also in a directory that they may enter
    and in one of an earlier version.
    """
    for name in _PRIVATE:
        with suppress(OSError):  # it is not there, or another user's
            mode = os.stat(home / name).st_mode
            if mode & 0o077:
                os.chmod(home / name, mode & 0o700)


_PRIVATE = ("content", "toc", "stat", "runs", "cache.db", "cache.db-wal", "cache.db-shm")


def _build(request: BuildRequest, session: _Session, step: Step) -> tuple[BuildResult, Results]:
    started_ns = time.time_ns()
    targets = push_targets(request, session.settings.repositories)
    with ExitStack() as stack:
        asking = stack.enter_context(TaskGroup(UPLOADS))
        for target in targets:
            asking.start(check_target, target)
        tools = _open_tools(request, session, step, stack)
        plan = _plan(request, tools)
        work = _solve(plan, targets, tools)
        run = Invocation(new_id(), started_ns, time.time_ns())
        attestor = Attestor(
            plan.request,
            plan.dockerfile,
            tools.images.found,
            work.solver,
            work.contexts,
            run,
            work.scanner,
            plan.generator,
        )
        results, by_manifest = _deliver(plan, work, attestor, targets, tools)
        result = _result(plan, work, attestor, results, run)
        return replace(result, by_manifest=by_manifest), results


def _open_tools(request: BuildRequest, session: _Session, step: Step, stack: ExitStack) -> _Tools:
    settings, blobs = session.settings, session.blobs
    agents = settings.agents_of(request)
    scratch = session.scratch / f"target-{new_id()}"
    scratch.mkdir()
    caches = RemoteCaches(request.cache, settings.open_cache, blobs, scratch, step)
    beside = stack.enter_context(TaskGroup())
    cache = Cache(session.records, blobs, settings.home)
    policy = settings.source_policy(request)
    remotes = open_remotes(request, settings, scratch, cache, blobs.store, policy)
    return _Tools(
        session=session,
        step=step,
        stack=stack,
        agents=agents,
        scratch=scratch,
        images=session.images.under_policy(policy, local=uses_local_images(request)),
        remotes=remotes,
        caches=caches,
        reading=caches.start_reading(beside),
        beside=beside,
    )


def _plan(request: BuildRequest, tools: _Tools) -> _BuildPlan:
    images, step = tools.images, tools.step
    stdin = tools.session.settings.stdin
    try:
        request, dockerfile = load_dockerfile(request, stdin, tools.remotes, images, step)
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
    check_dockerfile(request, dockerfile, images, step, tools.stack)
    generator = None
    if request.sbom is not None and request.sbom.is_image:
        from shipline.build.attestation.generator import resolve_generator  # slow to import

        generator = resolve_generator(request.sbom, images)
    return _BuildPlan(request, dockerfile, stages, clock_of(request, dockerfile), generator)


def _solve(plan: _BuildPlan, targets: Sequence[PushTarget], tools: _Tools) -> _Work:
    """Make every layer, and upload each as soon as it is known."""
    request, step, caches = plan.request, tools.step, tools.caches
    settings, blobs = tools.session.settings, tools.session.blobs
    worker = _worker(plan, tools)
    executor = Executor(
        sandbox=_sandbox(tools.scratch, tools.stack, step),
        secrets=settings.secrets_of(request),
        agents=tools.agents,
        environment=settings.environment,
        state=settings.home,
        mounts=caches.mounts,
    )
    contexts = open_contexts(request, settings.home, tools.scratch, tools.stack, step)
    recoder = Recoder(blobs, worker.cache, step)
    scanner = _scanner(plan, worker, executor, tools)
    roots = plan.roots
    with TaskGroup(UPLOADS) as group:
        uploads = Uploads(group, targets, blobs, recoder, worker.codec, step)

        def followers(published: bool) -> FollowerGroup | None:
            pushed = (uploads,) if targets and published else ()
            return FollowerGroup((*pushed, *caches.followers(published))) or None

        solver = Solver(
            worker,
            executor,
            tools.remotes,
            contexts,
            tools.images.found,
            step,
            followers,
            caches.on_result,
            tools.session.commands,
        )
        known: Known = {}
        if caches.wanted:
            pushed = {str(one) for one in targets}
            caches.start(group, roots, recoder, worker.cache, worker.codec, pushed)
            known = caches.find(
                tools.reading.result(),
                roots,
                tools.images.found,
                _local_files(roots, contexts, solver),
                variant=plan.clock.variant,
                at_once=_is_piped(request),
            )
        _solve_stages(roots, solver, uploads, scanner, known)
        if request.sbom is not None:
            _solve_scanned(plan.stages, solver)
        for one in contexts.values():  # while the result is delivered
            if one.cache is not None and one.cache.changed:
                tools.beside.start(one.cache.save)
    return _Work(solver, worker, recoder, contexts, scanner)


def _worker(plan: _BuildPlan, tools: _Tools) -> Worker:
    session = tools.session
    home, blobs = session.settings.home, session.blobs
    return Worker(
        store=blobs.store,
        snapshots=session.snapshots,
        cache=Cache(
            session.records, blobs, home, plan.clock.variant, blobs.remember, session.running
        ),
        codec=codec_of(formats_of(plan.request)[0]),
        clock=plan.clock,
        scratch=tools.scratch,
        indexes=BlockIndexes(
            home,
            blobs.store,
            session.files,
            tools.scratch,
            on_replaced=partial(tools.beside.start, _drop_unused, session, tools.step),
        ),
        tables=FileTables(home),
    )


def _scanner(
    plan: _BuildPlan, worker: Worker, executor: Executor, tools: _Tools
) -> PackageScanner | None:
    """What lists packages: this program, or the image of a generator; None without `--sbom`."""
    request = plan.request
    if request.sbom is None:
        return None
    if plan.generator is not None:
        from shipline.build.attestation.generator import ImageScanner  # slow to import

        parameters, fresh = dict(request.sbom.parameters), request.cache.disabled
        return ImageScanner(plan.generator, parameters, worker, executor, tools.step, fresh=fresh)
    from shipline.build.attestation.scanning import SbomScanner  # slow to import

    name = request.tags[0].name if request.tags else "image"
    session = tools.session
    environ = session.settings.environment
    return SbomScanner(
        request.sbom, name, environ, session.blobs, session.files, worker, tools.step
    )


def _drop_unused(session: _Session, step: Step) -> None:
    """Remove the blob that an older index has kept, while the build goes on."""
    keep_once(
        session.settings.home, session.scratch, session.records, session.files, step, unused=True
    )


def _deliver(
    plan: _BuildPlan, work: _Work, attestor: Attestor, targets: Sequence[PushTarget], tools: _Tools
) -> tuple[Results, bool]:
    """Assemble the images and deliver them to every output, tags last; with what `export` says."""
    request, step, caches = plan.request, tools.step, tools.caches
    settings, files = tools.session.settings, tools.session.files
    by_manifest = False
    with TaskGroup() as group:
        if files.unsynced:
            group.start(files.sync)
        written = None
        if caches.wanted:
            written = group.start(
                caches.finish, plan.roots, work.solver, work.worker.codec, Clock().now
            )
        results = {
            format: _assemble(format, plan, work, attestor, caches)
            for format in formats_of(request)
        }
        for image in next(iter(results.values())).images:
            step.note(**{f"image.size|{step.target}|{image.platform}": image.size})
        push_documents(results, targets, step)
        for output in request.outputs:
            result = results[format_of(output, request)]
            stated = attestor.of_all(plan.stages, result.images) if output.type in FILES else {}
            source = ExportSource(
                result,
                request.names_of(output),
                tools.session.blobs,
                work.worker.snapshots,
                plan.clock.now_ns(),
                settings.environment,
                stated,
                dated=plan.clock.epoch is not None and output.epoch != "",
            )
            by_manifest |= export(output, source, settings.stdout, step)
        if written is not None and caches.required:
            written.result()
        push_tags(results, targets, step)
    return results, by_manifest


def _result(
    plan: _BuildPlan, work: _Work, attestor: Attestor, results: Results, run: Invocation
) -> BuildResult:
    request = plan.request
    first = results[formats_of(request)[0]]
    provenance = {
        image.platform: attestor.provenance_for_metadata(stage, image, request.metadata_provenance)
        for stage, image in zip(plan.stages, first.images, strict=True)
        if request.metadata_provenance is not None
    }
    context = next(iter(work.contexts[MAIN_CONTEXT].materials), None)
    archive = request.outputs and all(one.type in ARCHIVES for one in request.outputs)
    root = archived(first) if archive else first.descriptor
    dependencies = attestor.dependencies(plan.stages)
    return BuildResult(
        root, first.images, request.tags, run.id, provenance, context, dependencies, first.documents
    )


def _exported(request: BuildRequest, results: Results) -> set[Digest]:
    """The layers that were written to files or loaded; an equal build reads them again."""
    formats = {format_of(one, request) for one in request.outputs if one.type in ARCHIVES}
    images = [image for one in formats for image in results[one].images]
    return {layer.descriptor.digest for image in images for layer in image.layers}


def _pulled(session: _Session) -> list[Layer]:
    """The layers of base images that were downloaded now."""
    layers = (layer for image in session.images.found.values() for layer in image.layers)
    return [one for one in layers if session.blobs.is_downloaded(one.descriptor.digest)]


def _sandbox(scratch: Path, stack: ExitStack, step: Step) -> Callable[[], Sandbox]:
    """The sandbox, opened when it is first used."""
    opened: Once[Sandbox] = Once()

    def show(network: str) -> None:
        with step.step(f"network of RUN: {network}", kind="internal"):
            pass

    def open_() -> Sandbox:
        return stack.enter_context(sandbox.open_sandbox(scratch, on_network=show))

    return lambda: opened.get("sandbox", open_)


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
    format: OutputFormat, plan: _BuildPlan, work: _Work, attestor: Attestor, caches: RemoteCaches
) -> Assembled:
    def created(vertex: Vertex) -> str:
        added = work.solver.result(vertex).added
        return added.created if added is not None else ""

    images, attestations = [], []
    for stage in plan.stages:
        found = work.solver.layers(stage.vertex)
        layers = [work.recoder.recode(layer, result, format) for layer, result in found]
        stage = caches.with_inline(stage, layers, work.solver)
        images.append(assemble(stage, layers, created, plan.clock, format))
        if format.attested:
            attestations.append(attestor.manifest(stage, images[-1], artifact=format.artifact))
    indexed = wants_index(plan.request)
    return combine(images, format, indexed=indexed, attestations=attestations)
