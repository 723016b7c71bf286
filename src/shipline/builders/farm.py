"""Builds on several nodes: each platform is built on the node that suits it best, pushed by digest,
and joined. The platforms of a node that is lost move to the others.

Source: docker/buildx, build/resolver, build/build.go.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from msgspec import Struct

from shipline.build.base_images import Repositories
from shipline.build.request import (
    Annotation,
    BuildRequest,
    Level,
    Output,
    in_target,
    linked_targets,
)
from shipline.build.settings import Settings
from shipline.builders.inputs import open_inputs
from shipline.builders.instances import Builder, Node
from shipline.builders.nodes import NodeFacts, facts_of, open_node
from shipline.builders.solving import Job, OpenNode, build_on, shared_key
from shipline.buildkit.gateway import BuildInput
from shipline.buildkit.session import Login
from shipline.content import MemoryStore, successors
from shipline.errors import BuilderError, Cancelled, ShiplineError
from shipline.events import Step
from shipline.oci import Descriptor, Index, Platform, Reference, media
from shipline.tasks import Once, Task, TaskGroup
from shipline.values import replace

_DESCRIPTOR = "containerimage.descriptor"
_NOWHERE = (Output("cacheonly"),)
_TARGETS_AT_ONCE = 16


def place(
    platforms: Sequence[Platform], nodes: Sequence[tuple[Node, NodeFacts]]
) -> list[tuple[int, tuple[Platform, ...]]]:
    """The nodes that build, by index, each with its platforms: those that are fixed for a node go
    there, others to a node of their own architecture, before one that emulates it; of equal nodes
    to the one with the least to do. Raises BuilderError for a platform that no node can build.
    """
    chosen: dict[int, list[Platform]] = {}
    for platform in platforms:
        ranked = [
            (rank, len(chosen.get(index, ())), index)
            for index, (node, facts) in enumerate(nodes)
            if (rank := _rank(platform, node, facts)) is not None
        ]
        if not ranked:
            able = sorted({str(one) for _, facts in nodes for one in facts.platforms})
            raise BuilderError(
                f"no node of the builder can build for {platform}",
                hint=f"they can build for {', '.join(able) or 'nothing'}; register emulators there,"
                " or add a node",
            )
        chosen.setdefault(min(ranked)[2], []).append(platform)
    return [(index, tuple(found)) for index, found in sorted(chosen.items())]


def _rank(platform: Platform, node: Node, facts: NodeFacts) -> int | None:
    """How well a node suits a platform, 0 is best; None if it cannot build it."""
    if platform in node.platforms:
        return 0
    if platform not in facts.platforms:
        return None
    native = facts.platforms[0].architecture == platform.architecture
    return 1 if native else 2


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
            jobs[name] = Job(builder, request, inputs, settings, login)
        key = shared_key(next(iter(requests.values())))
        nodes = stack.enter_context(_opened(builder, settings, key, step))
        return Farm(nodes, jobs).build(step)


@contextmanager
def _opened(builder: Builder, settings: Settings, key: str, step: Step) -> Iterator[list[OpenNode]]:
    """The nodes that answer, for a build with that key. Raises BuilderError if none does."""
    with ExitStack() as stack:
        found: list[OpenNode] = []
        failure: BuilderError | None = None
        for node in builder.nodes:
            try:
                with ExitStack() as opening:
                    opened = open_node(builder, node, settings.environment, key)
                    control = opening.enter_context(opened)
                    found.append(OpenNode(node, facts_of(control), control))
                    stack.push(opening.pop_all())
            except BuilderError as error:
                failure = error
                if len(builder.nodes) > 1:
                    step.warn(f"the node {node.name} is left out: {error.message}")
        if not found:
            raise failure or BuilderError(f"the builder {builder.name} has no nodes")
        yield found


def _known(nodes: Sequence[OpenNode]) -> list[tuple[Node, NodeFacts]]:
    return [(one.node, one.facts) for one in nodes]


def _check_joinable(builder: Builder, request: BuildRequest) -> None:
    """Raises BuilderError for outputs that cannot be joined, or if nothing would be kept."""
    if request.outputs and all(one.type == "image" and one.push for one in request.outputs):
        return
    raise BuilderError(
        f"several nodes of {builder.name} build for {len(request.platforms)} platforms, and only"
        " pushed images can be joined",
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

    def __init__(self, nodes: Sequence[OpenNode], jobs: Mapping[str, Job]) -> None:
        self.nodes = nodes
        self.jobs = jobs
        self._used = {name for one in jobs.values() for name in linked_targets(one.request)}
        self._placed = {name: self._places(name) for name in jobs}
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

    def _places(self, name: str) -> list[tuple[int, tuple[Platform, ...]]]:
        platforms = self.jobs[name].request.platforms
        with in_target(name):
            return place(platforms, _known(self.nodes)) if platforms else [(0, ())]

    def _target(self, name: str, step: Step) -> dict[str, str]:
        job, placed = self.jobs[name], self._placed[name]
        step = step.within(target=name) if name else step
        with in_target(name):
            if len(placed) == 1:
                return self._build(self.nodes[placed[0][0]], name, job, step)
            _check_joinable(job.builder, job.request)
            responses = self._build_everywhere(name, job, step)
            return _join(job.request, responses, job.settings.repositories, step)

    def _build_everywhere(
        self, name: str, job: Job, step: Step
    ) -> dict[Platform, Mapping[str, str]]:
        """What each platform's node says, after every platform was built."""
        request = job.request
        left, able = list(request.platforms), list(self.nodes)
        done: dict[Platform, Mapping[str, str]] = {}
        while left:
            placed = place(left, _known(able))

            def build(
                one: OpenNode, platforms: tuple[Platform, ...], alone: bool
            ) -> OpenNode | None:
                """The node, if it was lost."""
                part = replace(job, request=_part(request, platforms))
                try:
                    response = self._build(one, name, part, step)
                except BuilderError as error:
                    if not error.retriable or alone:
                        raise
                    step.warn(
                        f"the node {one.node.name} is lost: {error.message}",
                        f"another node builds {', '.join(map(str, platforms))}",
                    )
                    return one
                done.update(dict.fromkeys(platforms, response))
                return None

            with TaskGroup() as group:
                tasks = [
                    group.start(build, able[index], platforms, len(able) == 1)
                    for index, platforms in placed
                ]
            lost = [task.result() for task in tasks]
            left = [platform for platform in left if platform not in done]
            able = [one for one in able if one not in lost]
            if left and not able:
                raise BuilderError(f"all nodes of {job.builder.name} are lost", retriable=True)
        return done

    def _build(self, one: OpenNode, name: str, job: Job, step: Step) -> dict[str, str]:
        if name in self._used:
            return self._opened(one, name, job, step).response.result()
        return build_on(one, job, self._results(one, job, step), step)

    def _results(self, one: OpenNode, job: Job, step: Step) -> Callable[[str], BuildInput]:
        """The results of other targets for `job` on this node."""

        def result_of(name: str) -> BuildInput:
            with in_target(name):
                wanted = self._wanted(one, name, job.request.platforms)
                return self._opened(one, name, wanted, step.within(target=name)).result.result()

        return result_of

    def _wanted(self, one: OpenNode, name: str, platforms: tuple[Platform, ...]) -> Job:
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

    def _opened(self, one: OpenNode, name: str, job: Job, step: Step) -> _OpenBuild:
        def start() -> _OpenBuild:
            found = _OpenBuild(Task(), Task())
            self._others.start(self._keep_open, one, job, step, found)
            return found

        key = one.node.name, name, job.request.platforms, job.request.outputs
        return self._open.get(key, start)

    def _keep_open(self, one: OpenNode, job: Job, step: Step, build: _OpenBuild) -> None:
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
    outputs = tuple(_by_digest(request, output) for output in request.outputs)
    annotations = tuple(one for one in request.annotations if not one.level.of_index)
    return replace(request, platforms=platforms, outputs=outputs, tags=(), annotations=annotations)


def _by_digest(request: BuildRequest, output: Output) -> Output:
    names = request.names_of(output)
    places = tuple(dict.fromkeys(replace(name, tag="", digest=None) for name in names))
    return replace(output, names=places, push_by_digest=True)


def _join(
    request: BuildRequest,
    responses: Mapping[Platform, Mapping[str, str]],
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
    )
    for name in names:
        with step.step(f"push index to {name}", kind="push", host=name.host):
            repository, source = repositories(name), MemoryStore(index.raw)
            repository.push(index.descriptor, source)
            if not any(one.push_by_digest for one in request.outputs):
                repository.tag(index.descriptor, source, name.tag or "latest")
    raw = json.dumps(index.descriptor.to_json()).encode()
    return {
        _DESCRIPTOR: base64.b64encode(raw).decode(),
        "containerimage.digest": str(index.descriptor.digest),
        "image.name": ",".join(map(str, names)),
    }


def _entries(
    response: Mapping[str, str], platform: Platform, name: Reference, repositories: Repositories
) -> Iterator[Descriptor]:
    """The manifests that a node pushed: those of its index, with attestations, or the only one."""
    found = Descriptor.from_json(json.loads(base64.b64decode(response[_DESCRIPTOR])))
    if found.media_type not in media.INDEXES:
        yield replace(found, platform=found.platform or platform)
        return
    yield from successors(repositories(name), found)


def _index_annotations(annotations: Sequence[Annotation]) -> dict[str, str]:
    return {one.key: one.value for one in annotations if one.level is Level.INDEX}
