"""The straight line: a request -> stages -> graph -> layers -> images -> index -> names.

See ARCHITECTURE.md, "The straight line of a build".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from shipline import dockerfile as df
from shipline.build.assemble import Assembled, Image, assemble, combine
from shipline.build.blobs import Blobs
from shipline.build.cache import Cache, Made
from shipline.build.clock import EPOCH, EPOCH_HINT, Clock, epoch_of, rfc3339, with_seconds
from shipline.build.contexts import main_rules, open_contexts, read_dockerfile
from shipline.build.editions import Edition
from shipline.build.export import Results, export
from shipline.build.graph import CopyOp, RunOp, Vertex, walk
from shipline.build.images import RegistryImages, Repositories
from shipline.build.linting import configured, tell, unused_arguments, warnings_of
from shipline.build.outputs import names_of
from shipline.build.plan import PlatformPlan
from shipline.build.planned import Planned
from shipline.build.publish import push_documents, push_tags
from shipline.build.recoding import Recoder
from shipline.build.refusals import check_frontend, check_request, check_surroundings, doubts
from shipline.build.request import BuildRequest, ContextKind
from shipline.build.snapshots import Snapshots
from shipline.build.solver import Solver
from shipline.build.stdin import open_stdin
from shipline.build.targets import edition_of, editions_of, indexed, platforms_of, targets_of
from shipline.build.trouble import Damage, system_errors
from shipline.build.uploads import UPLOADS, Uploads
from shipline.build.workshop import Workshop
from shipline.content import LocalStore
from shipline.errors import DamagedContent, DockerfileError, NotFound, ShiplineError
from shipline.events import Step
from shipline.layer import Codec, Layer
from shipline.metadata import DamagedRecords, SqliteRecords
from shipline.oci import Descriptor, Platform, Reference
from shipline.sandbox import Sandbox, open_sandbox, open_workspace, private_mounts
from shipline.tasks import CPUS, Limiter, Once, TaskGroup


@dataclass(frozen=True, slots=True)
class Settings:
    """What surrounds a build: its state directory, the way to registries, the environment."""

    home: Path
    repositories: Repositories
    environment: Mapping[str, str] = field(default_factory=dict)
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
    check_surroundings(request, settings.environment)
    damage = Damage(step)
    with system_errors(settings.home):
        try:
            return _on_threads(request, settings, step, damage, verified=False)
        except (DamagedContent, DamagedRecords, NotFound):
            if not damage.found or _is_piped(request):
                raise
        return _on_threads(request, settings, step, damage, verified=True)


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
            request, dockerfile = _load(request, settings, Path(scratch), step)
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
        _plan(request, dockerfile, images, all_stages=target is None)
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


def _is_piped(request: BuildRequest) -> bool:
    """Whether the build reads or writes a stream, which can be done only once."""
    reads = request.context.kind is ContextKind.STDIN or request.dockerfile == "-"
    return reads or any(output.destination == "-" for output in request.outputs)


def _on_threads(
    request: BuildRequest, settings: Settings, step: Step, damage: Damage, *, verified: bool
) -> BuildResult:
    """Build; with `verified`, all bytes that are found are looked at before they are used."""
    store = LocalStore(settings.home / "content", damage, verified=verified)
    with TaskGroup() as group:
        task = group.start(_build, request, settings, step, store, damage)
    return task.result()


def _build(
    request: BuildRequest, settings: Settings, step: Step, store: LocalStore, damage: Damage
) -> BuildResult:
    private_mounts()
    editions = editions_of(request)
    targets = targets_of(request, settings.repositories)
    with ExitStack() as stack:
        scratch = stack.enter_context(open_workspace(settings.home))
        blobs = Blobs(store, step)
        images = RegistryImages(settings.repositories, blobs, step)
        request, dockerfile = _load(request, settings, scratch, step)
        for doubt in doubts(request, dockerfile.directives.syntax):
            step.warn(*doubt)
        wrapped = indexed(request)
        plans = _plan(request, dockerfile, images)
        _tell_warnings(request, dockerfile, images, step, stack)
        shop = _workshop(
            request, dockerfile, settings, blobs, editions[0].codec, scratch, damage, stack
        )
        recoder = Recoder(blobs, shop.cache, step)
        with TaskGroup(UPLOADS) as group:
            uploads = Uploads(group, targets, blobs, recoder, shop.codec, step)
            solver = _solver(plans, shop, images, step, uploads if targets else None)
            _solve(plans, solver, uploads)
        with TaskGroup() as group:
            group.start(shop.snapshots.sync)
            results = {
                edition: _assemble(plans, edition, solver, recoder, shop.clock, wrapped=wrapped)
                for edition in editions
            }
            push_documents(results, targets, step)
            _export(request, results, shop, blobs, settings, step)
            push_tags(results, targets, step)
        first = results[editions[0]]
        return BuildResult(first.descriptor, first.images, request.tags)


def _export(
    request: BuildRequest,
    results: Mapping[Edition, Assembled],
    shop: Workshop,
    blobs: Blobs,
    settings: Settings,
    step: Step,
) -> None:
    for output in request.outputs:
        result = results[edition_of(output, request)]
        names = names_of(output, request)
        made = Results(result, names, blobs, shop.snapshots, shop.clock.now_ns())
        export(output, made, settings.stdout, step)


def _load(
    request: BuildRequest, settings: Settings, scratch: Path, step: Step
) -> tuple[BuildRequest, df.Dockerfile]:
    with step.step("load Dockerfile", kind="internal"):
        request, stdin = open_stdin(request, settings.stdin, scratch)
        written = configured(read_dockerfile(request, stdin), request)
        resolved = with_seconds(request, written)
    if epoch_of(request, written) and not epoch_of(*resolved):
        step.warn(
            f"{EPOCH} is not set: the context that it names has no time of its own",
            EPOCH_HINT,
        )
    return resolved


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


def _plan(
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    images: RegistryImages,
    *,
    all_stages: bool = False,
) -> list[tuple[Platform, Planned]]:
    platforms = platforms_of(request)
    with TaskGroup() as group:
        tasks = [
            group.start(
                PlatformPlan(request, dockerfile, platform, images, all_stages=all_stages).result
            )
            for platform in platforms
        ]
    return [(one, task.result()) for one, task in zip(platforms, tasks, strict=True)]


def _workshop(
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    settings: Settings,
    blobs: Blobs,
    codec: Codec,
    scratch: Path,
    damage: Damage,
    stack: ExitStack,
) -> Workshop:
    home = settings.home
    clock = _clock(request, dockerfile)
    records = stack.enter_context(_records(home / "cache.db", damage))
    opened: Once[Sandbox] = Once()

    def sandbox() -> Sandbox:
        return opened.get("sandbox", lambda: stack.enter_context(open_sandbox(scratch)))

    return Workshop(
        store=blobs.store,
        snapshots=Snapshots(home, scratch, blobs, damage),
        cache=Cache(records, blobs, clock.variant),
        codec=codec,
        clock=clock,
        scratch=scratch,
        state=home,
        contexts=open_contexts(request, home, scratch, stack),
        secrets={secret.id: secret for secret in request.secrets},
        environment=settings.environment,
        sandbox=sandbox,
        making=Once(),
        running=Limiter(max(4, 2 * CPUS)),
    )


@contextmanager
def _records(path: Path, damage: Damage) -> Iterator[SqliteRecords]:
    """The records of the cache; those that turn out to be damaged are removed."""
    try:
        records = SqliteRecords(path)
    except DamagedRecords:
        SqliteRecords.remove(path)
        damage(path)
        records = SqliteRecords(path)
    with closing(records):
        try:
            yield records
        except DamagedRecords:
            SqliteRecords.remove(path)
            damage(path)
            raise


def _solver(
    plans: Sequence[tuple[Platform, Planned]],
    shop: Workshop,
    images: RegistryImages,
    step: Step,
    follower: Uploads | None,
) -> Solver:
    roots = [planned.vertex for _, planned in plans]
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


def _solve(plans: Sequence[tuple[Platform, Planned]], solver: Solver, uploads: Uploads) -> None:
    """Make every platform's files; each layer is handed to `uploads` as soon as it is known."""

    def send(root: Vertex) -> None:
        for layer, made in _layers(root, solver):
            uploads.send(layer, made)

    roots = [planned.vertex for _, planned in plans]
    with TaskGroup() as group:
        solver.start(group, *roots)
        for root in roots:
            group.start(send, root)


def _layers(root: Vertex, solver: Solver) -> Iterator[tuple[Layer, Made | None]]:
    """The layers of a result, bottom first, with what made them here; waits for each."""
    known = 0
    for vertex in reversed([*root.chain()]):
        solved = solver.result(vertex)
        layers = solved.snapshot.layers
        for layer in layers[known:]:
            yield layer, solved.made
        known = len(layers)


def _assemble(
    plans: Sequence[tuple[Platform, Planned]],
    edition: Edition,
    solver: Solver,
    recoder: Recoder,
    clock: Clock,
    *,
    wrapped: bool,
) -> Assembled:
    def made(vertex: Vertex) -> Made:
        found = solver.result(vertex).made
        assert found is not None
        return found

    epoch = rfc3339(clock.now_ns()) if clock.epoch is not None else ""
    images = []
    for _, planned in plans:
        found = list(_layers(planned.vertex, solver))
        layers = tuple(recoder.form(layer, by, edition) for layer, by in found)
        image = assemble(planned, layers, made, epoch=epoch, now=clock.now(), edition=edition)
        images.append(image)
    return combine(images, edition, indexed=wrapped)


def _clock(request: BuildRequest, dockerfile: df.Dockerfile) -> Clock:
    text = epoch_of(request, dockerfile)
    if not text:
        return Clock()
    clamp = any(output.enabled("rewrite-timestamp") for output in request.outputs)
    return Clock(int(text), clamp)
