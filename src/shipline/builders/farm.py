"""Builds on several nodes: each platform is built on the node that suits it best, pushed by digest,
and joined. The platforms of a node that is lost move to the others.

Source: docker/buildx, build/resolver, build/build.go.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from shipline.build.attributes import parse_boolean
from shipline.build.request import (
    Annotation,
    BuildRequest,
    Level,
    Output,
    in_target,
    linked_targets,
)
from shipline.build.settings import Settings
from shipline.builders.capabilities import CAPABILITIES, Capability
from shipline.builders.inputs import open_inputs
from shipline.builders.instances import Builder
from shipline.builders.opening import open_nodes
from shipline.builders.placement import Claims, Placement, affinity_key, can_build, place
from shipline.builders.solving import PROVENANCE, BuildJob, OpenNode, build_on, call_on
from shipline.buildkit.gateway import BuildInput
from shipline.buildkit.session import Login
from shipline.content import MemoryStore, successors
from shipline.errors import BuilderError, Cancelled, ShiplineError
from shipline.events import Step
from shipline.oci import Descriptor, Index, Platform, Reference, media
from shipline.tasks import Once, Task, TaskGroup
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.build.base_images import Repositories

_DESCRIPTOR = "containerimage.descriptor"
_NOWHERE = (Output("cacheonly"),)
_TARGETS_AT_ONCE = 16
_NO_LOAD = "BUILDX_NO_DEFAULT_LOAD"


def build_on_nodes(
    builder: Builder,
    requests: Mapping[str, BuildRequest],
    settings: Settings,
    login: Login,
    step: Step,
) -> dict[str, dict[str, str]]:
    """Build `requests`, by the names of targets, on the nodes of `builder`: a context of kind
    TARGET is the result of another one. What the exporters say, as in buildx's metadata.

    Raises BuilderError, and the errors of `run_build`, with the name of the target. A target of
    which a part failed has no tag.
    """
    with ExitStack() as stack:
        jobs = {}
        for name, request in requests.items():
            with in_target(name):
                inputs = stack.enter_context(open_inputs(request, settings))
                job = BuildJob(builder, request, inputs, settings, login)
                jobs[name] = _with_output(job, step.within(target=name) if name else step)
        key = affinity_key(next(iter(requests.values())))
        enough = partial(_can_build, jobs)
        opened = open_nodes(builder, settings.environment, key, step, enough)
        nodes = stack.enter_context(opened)
        if len(builder.nodes) > 1:
            jobs = {name: _with_platforms(job, nodes) for name, job in jobs.items()}
            placed = _claimed(jobs, nodes, Claims(settings.home, builder), stack)
        else:
            placed = {name: [(0, job.request.platforms)] for name, job in jobs.items()}
        return Farm(nodes, jobs, placed).build(step)


def call_on_nodes(
    builder: Builder, request: BuildRequest, settings: Settings, login: Login, step: Step
) -> dict[str, bytes]:
    """What the frontend of a node answers to the `call` of a request (`solving.call_on`)."""
    with ExitStack() as stack:
        inputs = stack.enter_context(open_inputs(request, settings))
        job = BuildJob(builder, request, inputs, settings, login)
        key = affinity_key(request)
        opened = open_nodes(builder, settings.environment, key, step, bool)
        return call_on(stack.enter_context(opened)[0], job, step)


def _can_build(jobs: Mapping[str, BuildJob], nodes: Sequence[OpenNode]) -> bool:
    return all(can_build(job.request.platforms, nodes) for job in jobs.values())


def _with_output(job: BuildJob, step: Step) -> BuildJob:
    """The job; without outputs an engine keeps the image, and elsewhere it is only in the cache."""
    request, builder = job.request, job.builder
    if request.outputs:
        return job
    if _loads_by_default(job):
        return replace(job, request=replace(request, outputs=(Output("docker"),)))
    step.warn(
        f"No output specified with {builder.driver} driver. Build result will only remain in the"
        " build cache. To push result image into registry use --push or to load image into docker"
        " use --load",
        "use --output type=cacheonly to build without this warning",
    )
    return job


def _loads_by_default(job: BuildJob) -> bool:
    """Whether results go to an engine unless another output is named (buildx, default-load)."""
    if job.builder.driver == "docker":
        return loads_by_default(job.settings.environment)
    wanted = job.builder.nodes[0].driver_options.get("default-load") or "false"
    able = Capability.LOAD in CAPABILITIES.get(job.builder.driver, ())
    return able and parse_boolean(wanted, "default-load")


def loads_by_default(environment: Mapping[str, str]) -> bool:
    """Whether the driver `docker` loads results that have no output."""
    return not parse_boolean(environment.get(_NO_LOAD) or "false", _NO_LOAD)


def _with_platforms(job: BuildJob, nodes: Sequence[OpenNode]) -> BuildJob:
    """The job for the platforms that were asked for, or else for that of the first node, wherever
    it is built.
    """
    platforms = job.request.platforms or nodes[0].facts.platforms[:1]
    return replace(job, request=replace(job.request, platforms=platforms))


def _claimed(
    jobs: Mapping[str, BuildJob], nodes: Sequence[OpenNode], claims: Claims, stack: ExitStack
) -> dict[str, Placement]:
    """Where targets are built, each beside those before it; other builds know until `stack`
    closes.
    """
    placed = {}
    with claims.deciding():
        loads = Counter(claims.loads(nodes))
        for name, job in jobs.items():
            with in_target(name):
                request, key = job.request, affinity_key(job.request)
                together = not _is_joinable(request)
                placed[name] = place(request.platforms, nodes, key, loads, together=together)
            for index, _ in placed[name]:
                loads[nodes[index].node.name] += 1
                claims.claim(nodes[index].node, stack)
    return placed


def _is_joinable(request: BuildRequest) -> bool:
    outputs = request.outputs
    return bool(outputs) and all(one.type == "image" and one.push for one in outputs)


def _check_joinable(builder: Builder, request: BuildRequest) -> None:
    """Raises BuilderError for outputs that cannot be joined, or if nothing would be kept."""
    if _is_joinable(request):
        return
    raise BuilderError(
        f"several nodes of {builder.name} build for {len(request.platforms)} platforms, and only"
        " pushed images can be joined",
        code="builder-incapable",
        hint="add --push, or build one platform at a time",
    )


class _OpenBuild(Struct, frozen=True):
    """A build that others use: its result, and what its exporters say in the end."""

    result: Task[BuildInput]
    response: Task[dict[str, str]]


class Farm:
    """Open nodes and the targets that are built on them, once. A target that others use is built on
    each node that needs it, and stays open there until all others are built.
    """

    def __init__(
        self,
        nodes: Sequence[OpenNode],
        jobs: Mapping[str, BuildJob],
        placed: Mapping[str, Placement],
    ) -> None:
        self.nodes = nodes
        self.jobs = jobs
        self._used = {name for one in jobs.values() for name in linked_targets(one.request)}
        self._placed = placed
        self._open: Once[_OpenBuild] = Once()
        self._others = TaskGroup()
        self._finished: Task[None] = Task()

    def build(self, step: Step) -> dict[str, dict[str, str]]:
        """What the exporters of each target say; nothing for those that only others need."""
        tasks: dict[str, Task[dict[str, str]]] = {}
        with self._others, TaskGroup() as exported:
            with TaskGroup(_TARGETS_AT_ONCE) as group:
                for name, job in self.jobs.items():
                    if name not in self._used:
                        tasks[name] = group.start(self._target, name, step)
                    elif not job.request.is_dropped:
                        tasks[name] = exported.start(self._target, name, step)
            self._finished.settle((None,))
        return {name: tasks[name].result() if name in tasks else {} for name in self.jobs}

    def _target(self, name: str, step: Step) -> dict[str, str]:
        job, placed = self.jobs[name], self._placed[name]
        step = step.within(target=name) if name else step
        with in_target(name):
            if len(placed) > 1:
                _check_joinable(job.builder, job.request)
            responses = self._build_everywhere(name, job, placed, step)
            if len(placed) == 1:
                return dict(next(iter(responses.values())))
            return _join(job.request, responses, job.settings.repositories, step)

    def _build_everywhere(
        self, name: str, job: BuildJob, placed: Placement, step: Step
    ) -> dict[Platform | None, Mapping[str, str]]:
        """What each platform's node says, after every platform was built; None stands for that of
        the node. The platforms of a lost node move to others at once.
        """
        done: dict[Platform | None, Mapping[str, str]] = {}

        def build(one: OpenNode, platforms: tuple[Platform, ...]) -> None:
            part = job
            if len(placed) > 1:
                part = replace(job, request=_part(job.request, platforms))
            within = step
            if len(placed) > 1 and len(platforms) == 1:
                within = step.within(platform=str(platforms[0]))
            try:
                response = self._build(one, name, part, within)
            except BuilderError as error:
                if not one.is_lost or len(self.nodes) == 1:
                    raise
                move(one, platforms, error)
            else:
                done.update(dict.fromkeys(platforms or (None,), response))

        def move(lost: OpenNode, platforms: tuple[Platform, ...], error: BuilderError) -> None:
            able = [one for one in self.nodes if not one.is_lost]
            if not able:
                raise BuilderError(
                    f"all nodes of {job.builder.name} are lost", code="builder-lost", retriable=True
                )
            for index, moved in place(platforms, able, affinity_key(job.request)):
                step.warn(
                    f"the node {lost.node.name} is lost: {error.message}",
                    f"{able[index].node.name} builds {', '.join(map(str, moved))}",
                )
                group.start(build, able[index], moved)

        with TaskGroup() as group:
            for index, platforms in placed:
                group.start(build, self.nodes[index], platforms)
        return done

    def _build(self, one: OpenNode, name: str, job: BuildJob, step: Step) -> dict[str, str]:
        if name in self._used:
            return self._opened(one, name, job, step).response.result()
        return build_on(one, job, self._results(one, job, step), step)

    def _results(self, one: OpenNode, job: BuildJob, step: Step) -> Callable[[str], BuildInput]:
        """The results of other targets for `job` on this node."""

        def result_of(name: str) -> BuildInput:
            with in_target(name):
                wanted = self._wanted(one, name, job.request.platforms)
                return self._opened(one, name, wanted, step.within(target=name)).result.result()

        return result_of

    def _wanted(self, one: OpenNode, name: str, platforms: tuple[Platform, ...]) -> BuildJob:
        """The build of a target that another one uses for `platforms` on this node: its own there,
        if it has one, or one that goes nowhere.
        """
        job, own = self.jobs[name], self._placed[name]
        offered = job.request.platforms
        needed = platforms or one.facts.platforms[:1]
        wanted = {one for one in offered if one in needed} if len(offered) > 1 else set()
        for index, placed in own:
            if self.nodes[index] is one and wanted <= set(placed):
                return replace(job, request=_part(job.request, placed)) if len(own) > 1 else job
        narrowed = tuple(one for one in offered if one in wanted) or offered
        request = replace(job.request, platforms=narrowed, outputs=_NOWHERE, tags=())
        return replace(job, request=request)

    def _opened(self, one: OpenNode, name: str, job: BuildJob, step: Step) -> _OpenBuild:
        def start() -> _OpenBuild:
            found = _OpenBuild(Task(), Task())
            self._others.start(self._keep_open, one, job, step, found)
            return found

        key = one.node.name, name, job.request.platforms, job.request.outputs
        return self._open.get(key, start)

    def _keep_open(self, one: OpenNode, job: BuildJob, step: Step, build: _OpenBuild) -> None:
        """Build; whoever waits for the result gets a failure, too."""

        def use(found: BuildInput) -> None:
            build.result.settle((found,))
            self._finished.result()

        try:
            outcome: Any = (build_on(one, job, self._results(one, job, step), step, use=use),)
        except (ShiplineError, Cancelled) as error:
            outcome = error
        if not build.result.settled:
            build.result.settle(outcome)
        build.response.settle(outcome)


def _part(request: BuildRequest, platforms: tuple[Platform, ...]) -> BuildRequest:
    """The request for one node: its platforms, pushed by digest."""
    outputs = tuple(
        replace(output, names=request.names_of(output), push_by_digest=True)
        for output in request.outputs
    )
    annotations = tuple(one for one in request.annotations if not one.level.of_index)
    return replace(request, platforms=platforms, outputs=outputs, tags=(), annotations=annotations)


def _join(
    request: BuildRequest,
    responses: Mapping[Platform | None, Mapping[str, str]],
    repositories: Repositories,
    step: Step,
) -> dict[str, str]:
    """Push an index of all platforms under every tag."""
    names = tuple(
        dict.fromkeys(name for output in request.outputs for name in request.names_of(output))
    )
    entries: dict[Descriptor, None] = {}
    for platform in request.platforms:
        entries |= dict.fromkeys(_entries(responses[platform], platform, names[0], repositories))
    docker = all(one.media_type == media.DOCKER_MANIFEST for one in entries)
    index = Index.make(
        entries,
        media_type=media.DOCKER_INDEX if docker else media.OCI_INDEX,
        annotations=_index_annotations(request.annotations),
        indented=True,
    )
    for name in names:
        with step.step(f"push index to {name}", kind="push", host=name.host):
            repository, source = repositories(name), MemoryStore(index.raw)
            repository.push(index.descriptor, source)
            if not any(one.push_by_digest for one in request.outputs):
                repository.tag(index.descriptor, source, name.tag or "latest")
    raw = json.dumps(index.descriptor.to_json()).encode()
    return {
        **_joined_provenance(responses),
        _DESCRIPTOR: base64.b64encode(raw).decode(),
        "containerimage.digest": str(index.descriptor.digest),
        "image.name": ",".join(map(str, names)),
    }


def _joined_provenance(responses: Mapping[Platform | None, Mapping[str, str]]) -> dict[str, str]:
    """The provenance of each platform, named as by one node that builds several."""
    return {
        f"{PROVENANCE}/{platform}": found
        for platform, response in responses.items()
        if (found := response.get(f"{PROVENANCE}/{platform}") or response.get(PROVENANCE))
    }


def descriptor_of(response: Mapping[str, str]) -> Descriptor | None:
    """The image that exporters made; None if they made none."""
    if (encoded := response.get(_DESCRIPTOR)) is None:
        return None
    return Descriptor.from_json(json.loads(base64.b64decode(encoded)))


def _entries(
    response: Mapping[str, str], platform: Platform, name: Reference, repositories: Repositories
) -> Iterator[Descriptor]:
    """The manifests that a node pushed: those of its index, with attestations, or the only one."""
    found = descriptor_of(response)
    if found is None:
        raise BuilderError(
            f"the builder does not say what it pushed for {platform}", code="builder-answer"
        )
    if found.media_type not in media.INDEXES:
        yield replace(found, platform=found.platform or platform)
        return
    yield from successors(repositories(name), found)


def _index_annotations(annotations: Sequence[Annotation]) -> dict[str, str]:
    return {one.key: one.value for one in annotations if one.level is Level.INDEX}
