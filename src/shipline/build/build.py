"""The straight line: a request -> stages -> graph -> layers -> images -> index -> names.

See ARCHITECTURE.md, "The straight line of a build".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from shipline import dockerfile as df
from shipline.build.assemble import Image, assemble, combine
from shipline.build.blobs import Blobs
from shipline.build.cache import Cache, Made
from shipline.build.clock import Clock, rfc3339
from shipline.build.contexts import open_contexts, read_dockerfile
from shipline.build.export import Results, export
from shipline.build.graph import CopyOp, RunOp, Vertex, walk
from shipline.build.images import RegistryImages, Repositories
from shipline.build.plan import PlatformPlan
from shipline.build.planned import Planned
from shipline.build.publish import push_documents, push_tags
from shipline.build.request import BuildRequest
from shipline.build.snapshots import Snapshots
from shipline.build.solver import Solved, Solver
from shipline.build.uploads import Target, Uploads
from shipline.build.workshop import Workshop
from shipline.content import LocalStore
from shipline.errors import UsageError
from shipline.events import Step
from shipline.layer import Codec, codec
from shipline.metadata import SqliteRecords
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
class BuildResult:
    """What was built. `root` is the index, or the manifest where one platform was asked for."""

    root: Descriptor
    images: tuple[Image, ...]
    names: tuple[Reference, ...]


def build(request: BuildRequest, settings: Settings, step: Step) -> BuildResult:
    """Build `request` and deliver it to its outputs. Raises the errors of shipline.errors.

    When it raises, no name was moved anywhere. The work is done on threads of its own, in a mount
    namespace that vanishes with them.
    """
    with TaskGroup() as group:
        task = group.start(_build, request, settings, step)
    return task.result()


def _build(request: BuildRequest, settings: Settings, step: Step) -> BuildResult:
    private_mounts()
    with ExitStack() as stack:
        settings.home.mkdir(parents=True, exist_ok=True)
        scratch = stack.enter_context(open_workspace(settings.home))
        blobs = Blobs(LocalStore(settings.home / "content"), step)
        images = RegistryImages(settings.repositories, blobs, step)
        with step.step("load Dockerfile", kind="internal"):
            dockerfile = read_dockerfile(request, settings.stdin)
        plans = _plan(request, dockerfile, images, step)
        shop = _workshop(request, settings, blobs, scratch, stack)
        targets = _targets(request, settings.repositories)
        with TaskGroup() as group:
            uploads = Uploads(group, targets, blobs, step)
            solver = _solver(plans, shop, images, step, uploads if targets else None)
            solved = _solve(plans, solver, uploads)
        results = _assemble(plans, solved, solver, shop.clock)
        root = results[0].manifest if len(results) == 1 else combine(results)
        if targets:
            push_documents(results, root, targets.values(), step)
            push_tags(root, request.tags, targets, step)
        exported = Results(results, root, request.tags, blobs, shop.snapshots, shop.clock.now_ns())
        for output in request.outputs:
            export(output, exported, settings.stdout, step)
        return BuildResult(root.descriptor, tuple(results), request.tags)


def _plan(
    request: BuildRequest, dockerfile: df.Dockerfile, images: RegistryImages, step: Step
) -> list[tuple[Platform, Planned]]:
    platforms = request.platforms or (Platform.local(),)
    with TaskGroup() as group:
        tasks = [
            group.start(PlatformPlan(request, dockerfile, platform, images, step.warn).result)
            for platform in dict.fromkeys(platforms)
        ]
    return [(one, task.result()) for one, task in zip(dict.fromkeys(platforms), tasks, strict=True)]


def _workshop(
    request: BuildRequest, settings: Settings, blobs: Blobs, scratch: Path, stack: ExitStack
) -> Workshop:
    home = settings.home
    records = SqliteRecords(home / "cache.db")
    stack.callback(records.close)
    opened: Once[Sandbox] = Once()

    def sandbox() -> Sandbox:
        return opened.get("sandbox", lambda: stack.enter_context(open_sandbox(scratch)))

    return Workshop(
        store=blobs.store,
        snapshots=Snapshots(home, scratch, blobs),
        cache=Cache(records, blobs),
        codec=_codec(request),
        clock=_clock(request),
        scratch=scratch,
        state=home,
        contexts=open_contexts(request, home, scratch, stack),
        secrets={secret.id: secret for secret in request.secrets},
        environment=settings.environment,
        sandbox=sandbox,
        making=Once(),
        running=Limiter(max(4, 2 * CPUS)),
    )


def _targets(request: BuildRequest, repositories: Repositories) -> dict[str, Target]:
    if not request.push:
        return {}
    if not request.tags:
        raise UsageError("a tag is needed when pushing", hint="name the image with -t")
    return {tag.name: Target(tag.host, tag.repository, repositories(tag)) for tag in request.tags}


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


def _solve(
    plans: Sequence[tuple[Platform, Planned]], solver: Solver, uploads: Uploads
) -> list[Solved]:
    """Every platform's result; each layer is handed to `uploads` as soon as it is known."""

    def send(root: Vertex) -> Solved:
        known = 0
        for vertex in reversed([*root.chain()]):
            layers = solver.solve(vertex).snapshot.layers
            for layer in layers[known:]:
                uploads.send(layer.descriptor)
            known = len(layers)
        return solver.solve(root)

    roots = [planned.vertex for _, planned in plans]
    with TaskGroup() as group:
        solver.start(group, *roots)
        tasks = [group.start(send, root) for root in roots]
    return [task.result() for task in tasks]


def _assemble(
    plans: Sequence[tuple[Platform, Planned]],
    solved: Sequence[Solved],
    solver: Solver,
    clock: Clock,
) -> list[Image]:
    def made(vertex: Vertex) -> Made:
        found = solver.solve(vertex).made
        assert found is not None
        return found

    epoch = rfc3339(clock.now_ns()) if clock.epoch is not None else ""
    return [
        assemble(planned, result.snapshot.layers, made, epoch=epoch, now=clock.now())
        for (_, planned), result in zip(plans, solved, strict=True)
    ]


def _codec(request: BuildRequest) -> Codec:
    for output in request.outputs:
        compression = output.attributes.get("compression", "gzip")
        level = output.attributes.get("compression-level")
        return codec(compression, None if level is None else int(level))
    return codec("gzip")


def _clock(request: BuildRequest) -> Clock:
    text = request.build_args.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return Clock()
    if not text.lstrip("-").isdigit():
        raise UsageError(
            f"SOURCE_DATE_EPOCH is not a number: {text!r}", hint="give it in seconds since 1970"
        )
    clamp = any(output.enabled("rewrite-timestamp") for output in request.outputs)
    return Clock(int(text), clamp)
