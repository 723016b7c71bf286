"""The straight line: a request -> stages -> graph -> layers -> images -> index -> names.

See ARCHITECTURE.md, "The straight line of a build".
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from shipline import dockerfile as df
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
from shipline.build.base_images import Blobs, RegistryImages, Repositories
from shipline.build.cache import Cache, LayerResult, open_records
from shipline.build.checks import tell, unused_arguments, warnings_of
from shipline.build.clock import EPOCH, Clock, clock_of, rfc3339
from shipline.build.contexts import load_dockerfile, main_rules, open_contexts
from shipline.build.disk import LIMIT_VARIABLE, PruneLimits, grew, limit_of, prune, total
from shipline.build.downloads import Downloader, Get, last_modified, no_network
from shipline.build.exporters import Results, export
from shipline.build.faults import Damage, system_errors
from shipline.build.graph import CopyOp, HttpOp, RunOp, ScratchOp, Vertex, walk
from shipline.build.plan import plan_platforms
from shipline.build.publish import UPLOADS, Uploads, push_documents, push_tags, targets_of
from shipline.build.request import BuildRequest, ContextKind, OutputFormat
from shipline.build.snapshots import USE_LOCK, Snapshots
from shipline.build.solver import Solver
from shipline.build.stages import StageState
from shipline.build.validation import (
    check_environment,
    check_frontend,
    check_request,
    request_warnings,
)
from shipline.build.workshop import Worker
from shipline.content import LocalStore, Recency
from shipline.errors import Cancelled, DamagedContent, DockerfileError, NotFound, ShiplineError
from shipline.events import Step
from shipline.layer import Codec, Layer
from shipline.metadata import DamagedRecords
from shipline.oci import Descriptor, Reference
from shipline.sandbox import Sandbox, open_sandbox, open_workspace, private_mounts
from shipline.tasks import CPUS, Limiter, Once, TaskGroup
from shipline.units import counted, shown_size


@dataclass(frozen=True, slots=True)
class Settings:
    """What surrounds a build: its state directory, the way to registries, the environment."""

    home: Path
    repositories: Repositories
    environment: Mapping[str, str] = field(default_factory=dict)
    get: Get = no_network
    stdin: BinaryIO | None = None
    stdout: BinaryIO | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What the build checks found, and what would stop the build before it does any work."""

    warnings: tuple[df.LintWarning, ...] = ()
    failure: ShiplineError | None = None


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was built, as its first pushed output has it, else its first; `names` are all.

    `root` is the index, or the manifest where one platform was asked for.
    """

    root: Descriptor
    images: tuple[Image, ...]
    names: tuple[Reference, ...]


def build(request: BuildRequest, settings: Settings, step: Step) -> BuildResult:
    """Build `request` and deliver it to its outputs. Raises the errors of shipline.errors.

    When it raises, no name was moved anywhere. The work is done on threads of its own, in a mount
    namespace that vanishes with them.
    """
    check_request(request)
    check_environment(request, settings.environment)
    damage = Damage(step)
    limit = limit_of(settings.environment.get(LIMIT_VARIABLE, ""), settings.home)
    started = time.time()
    try:
        with system_errors(settings.home):
            try:
                return _on_threads(request, settings, step, damage, verified=False)
            except (DamagedContent, DamagedRecords, NotFound):
                if not damage.found or _is_piped(request):
                    raise
            return _on_threads(request, settings, step, damage, verified=True)
    except Cancelled:
        limit = None
        raise
    finally:
        _keep_within(settings.home, limit, started, step)


def _keep_within(home: Path, limit: int | None, started: float, step: Step) -> None:
    """Evict what is over `limit`, if the build added anything; never fails the build."""
    if limit is None or not grew(home, started):
        return
    try:
        evicted = list(prune(home, PruneLimits(max_used=limit)))
    except (OSError, ShiplineError, DamagedRecords) as error:
        step.warn(f"the cache could not be kept within its limit: {error}")
        return
    if evicted:
        freed = shown_size(total(evicted))
        with step.step(f"[internal] evicted {counted(len(evicted), 'cache record')}, {freed}"):
            pass


def check(request: BuildRequest, settings: Settings, step: Step) -> CheckResult:
    """Plan the target, or without one all stages, and do nothing of it; base images are looked up.

    Raises UsageError where there is no Dockerfile or no such target, and what `build` raises where
    this machine refuses.
    """
    with system_errors(settings.home), TemporaryDirectory() as scratch:
        images = RegistryImages(
            settings.repositories, Blobs(LocalStore(settings.home / "content"), step), step
        )
        try:
            time_of = partial(_time_of_stage, images, settings)
            request, dockerfile = load_dockerfile(
                request, settings.stdin, Path(scratch), step, time_of
            )
        except DockerfileError as error:
            return CheckResult(failure=error)
        if frontend := check_frontend(request, dockerfile.directives.syntax, ""):
            step.warn(frontend)
        return _checked(request, dockerfile, images)


def _checked(
    request: BuildRequest, dockerfile: df.Dockerfile, images: RegistryImages
) -> CheckResult:
    target = df.resolve_target(dockerfile, request.target) if request.target else None
    failure: ShiplineError | None = None
    try:
        plan_platforms(request, dockerfile, images, all_stages=target is None)
    except ShiplineError as error:
        failure = error
    try:
        found = warnings_of(
            request, dockerfile, main_rules(request), target=target, variables=images.variables
        )
    except DockerfileError as error:
        return CheckResult(failure=failure or error)
    try:
        df.enforce(found, df.check_options(dockerfile))
    except DockerfileError as error:
        failure = failure or error
    return CheckResult(found, failure)


def _time_of_stage(
    images: RegistryImages,
    settings: Settings,
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    name: str,
    stage: df.Stage,
) -> int:
    """When the file changed that the stage adds from a URL, and which is all that it has."""
    arguments = {key: value for key, value in request.build_args.items() if key != EPOCH}
    request = replace(
        request, target=name, build_args=arguments, platforms=request.target_platforms[:1]
    )
    *added, bottom = plan_platforms(request, dockerfile, images)[0].vertex.chain()
    source = added[0].inputs[-1].op if len(added) == 1 else None
    modified = 0
    if isinstance(source, HttpOp) and len(source.files) == 1 and isinstance(bottom.op, ScratchOp):
        modified = last_modified(source.files[0][0], settings.get)
    if modified:
        return modified
    raise DockerfileError(
        f"{EPOCH}={name}: the stage has no time",
        span=stage.span,
        hint="a stage that has one is FROM scratch with a single ADD of a URL, whose server sends"
        " Last-Modified",
    )


def _is_piped(request: BuildRequest) -> bool:
    """Whether the build reads or writes a stream, which can be done only once."""
    reads = request.context.kind is ContextKind.STDIN or request.dockerfile == "-"
    return reads or any(output.destination == "-" for output in request.outputs)


def _on_threads(
    request: BuildRequest, settings: Settings, step: Step, damage: Damage, *, verified: bool
) -> BuildResult:
    """Build; with `verified`, all bytes that are found are looked at before they are used."""
    settings.home.mkdir(parents=True, exist_ok=True)
    recency = Recency(settings.home / USE_LOCK)
    store = LocalStore(settings.home / "content", damage, verified=verified, recency=recency)
    with TaskGroup() as group:
        task = group.start(_build, request, settings, step, store, damage)
    return task.result()


def _build(
    request: BuildRequest, settings: Settings, step: Step, store: LocalStore, damage: Damage
) -> BuildResult:
    private_mounts()
    formats = formats_of(request)
    codec = codec_of(formats[0])
    targets = targets_of(request, settings.repositories)
    with ExitStack() as stack:
        scratch = stack.enter_context(open_workspace(settings.home))
        blobs = Blobs(store, step)
        images = RegistryImages(settings.repositories, blobs, step)
        time_of = partial(_time_of_stage, images, settings)
        request, dockerfile = load_dockerfile(request, settings.stdin, scratch, step, time_of)
        for warning in request_warnings(request, dockerfile.directives.syntax):
            step.warn(*warning)
        indexed = wants_index(request)
        stages = plan_platforms(request, dockerfile, images)
        _tell_warnings(request, dockerfile, images, step, stack)
        shop = _workshop(request, dockerfile, settings, blobs, codec, scratch, damage, stack)
        recoder = Recoder(blobs, shop.cache, step)
        with TaskGroup(UPLOADS) as group:
            uploads = Uploads(group, targets, blobs, recoder, codec, step)
            solver = _solver(stages, shop, images, step, uploads if targets else None)
            _solve(stages, solver, uploads)
        with TaskGroup() as group:
            group.start(shop.snapshots.sync)
            results = {
                one: _assemble(stages, one, solver, recoder, shop.clock, indexed=indexed)
                for one in formats
            }
            push_documents(results, targets, step)
            _export(request, results, shop, blobs, settings, step)
            push_tags(results, targets, step)
        first = results[formats[0]]
        return BuildResult(first.descriptor, first.images, request.tags)


def _export(
    request: BuildRequest,
    results: Mapping[OutputFormat, Assembled],
    shop: Worker,
    blobs: Blobs,
    settings: Settings,
    step: Step,
) -> None:
    for output in request.outputs:
        result = results[format_of(output, request)]
        names = request.names_of(output)
        made = Results(result, names, blobs, shop.snapshots, shop.clock.now_ns())
        export(output, made, settings.stdout, step)


def _tell_warnings(
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    images: RegistryImages,
    step: Step,
    stack: ExitStack,
) -> None:
    """Have the build checks told when `stack` ends. Raises DockerfileError where they forbid it."""
    target = df.resolve_target(dockerfile, request.target)
    rules = main_rules(request)
    for warning in unused_arguments(request, dockerfile):
        step.warn(warning)
    found = warnings_of(request, dockerfile, rules, target=target, variables=images.variables)
    stack.callback(tell, found, step)
    df.enforce(found, df.check_options(dockerfile))


def _workshop(
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    settings: Settings,
    blobs: Blobs,
    codec: Codec,
    scratch: Path,
    damage: Damage,
    stack: ExitStack,
) -> Worker:
    home = settings.home
    clock = clock_of(request, dockerfile)
    records = stack.enter_context(open_records(home / "cache.db", damage))
    cache = Cache(records, blobs, clock.variant)
    opened: Once[Sandbox] = Once()

    def sandbox() -> Sandbox:
        return opened.get("sandbox", lambda: stack.enter_context(open_sandbox(scratch)))

    return Worker(
        store=blobs.store,
        snapshots=Snapshots(home, scratch, blobs, damage),
        cache=cache,
        codec=codec,
        clock=clock,
        scratch=scratch,
        state=home,
        contexts=open_contexts(request, home, scratch, stack),
        secrets={secret.id: secret for secret in request.secrets},
        environment=settings.environment,
        sandbox=sandbox,
        downloader=Downloader(settings.get, cache, blobs.store),
        making=Once(),
        running=Limiter(max(4, 2 * CPUS)),
    )


def _solver(
    stages: Sequence[StageState],
    shop: Worker,
    images: RegistryImages,
    step: Step,
    follower: Uploads | None,
) -> Solver:
    roots = [one.vertex for one in stages]
    publish = frozenset(vertex for root in roots for vertex in root.chain())
    mountable: set[Vertex] = set()
    for vertex in walk(*roots):
        if isinstance(vertex.op, RunOp):
            mountable |= {below for one in vertex.inputs for below in one.chain()}
        elif isinstance(vertex.op, CopyOp) and len(vertex.inputs) > 1:
            mountable |= set(vertex.inputs[1].chain())
    return Solver(
        shop,
        images.found,
        step,
        publish=publish,
        mountable=frozenset(mountable),
        follower=follower,
    )


def _solve(stages: Sequence[StageState], solver: Solver, uploads: Uploads) -> None:
    """Make every platform's files; each layer is handed to `uploads` as soon as it is known."""

    def send(root: Vertex) -> None:
        for layer, made in _layers(root, solver):
            uploads.send(layer, made)

    roots = [one.vertex for one in stages]
    with TaskGroup() as group:
        solver.start(group, *roots)
        for root in roots:
            group.start(send, root)


def _layers(root: Vertex, solver: Solver) -> Iterator[tuple[Layer, LayerResult | None]]:
    """The layers of a result, bottom first, with what made them here; waits for each."""
    known = 0
    for vertex in reversed([*root.chain()]):
        solved = solver.result(vertex)
        layers = solved.snapshot.layers
        for layer in layers[known:]:
            yield layer, solved.made
        known = len(layers)


def _assemble(
    stages: Sequence[StageState],
    format: OutputFormat,
    solver: Solver,
    recoder: Recoder,
    clock: Clock,
    *,
    indexed: bool,
) -> Assembled:
    def made(vertex: Vertex) -> LayerResult:
        found = solver.result(vertex).made
        assert found is not None
        return found

    epoch = rfc3339(clock.now_ns()) if clock.epoch is not None else ""
    images = []
    for stage in stages:
        found = list(_layers(stage.vertex, solver))
        layers = tuple(recoder.recode(layer, by, format) for layer, by in found)
        image = assemble(stage, layers, made, epoch=epoch, now=clock.now(), format=format)
        images.append(image)
    return combine(images, format, indexed=indexed)
