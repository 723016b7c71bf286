"""Builds one request, or several at once that share what they make.

`target` has the straight line of each. Here are what is around it: the checks before the first
step, the threads, and a second try where the state directory was damaged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack

from shipline.build.assembly import format_of
from shipline.build.blobs import BrokenCache
from shipline.build.disk import LIMIT_VARIABLE, grew, kept_within, limit_of
from shipline.build.exporters import ARCHIVES, check_engines, check_outputs
from shipline.build.faults import Damage, repair, system_errors
from shipline.build.publish import Results
from shipline.build.request import BuildRequest, in_target, linked_targets
from shipline.build.session import Session
from shipline.build.settings import Settings
from shipline.build.target import BuildResult, build_target
from shipline.build.validation import check_environment, check_request
from shipline.errors import DockerfileError, ShiplineError, StepFailed
from shipline.events import Step
from shipline.oci import Digest
from shipline.sandbox import private_mounts
from shipline.tasks import TaskGroup, visit_graph
from shipline.values import replace

_TARGETS_AT_ONCE = 16  # most of them wait for their turn to run a command


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
    is_piped = any(request.is_piped for request in requests.values())
    with kept_within(limit, settings.home, step), system_errors(settings.home):
        try:
            return _on_threads(requests, settings, step, damage, verified=False)
        except BrokenCache as error:
            if is_piped:
                raise
            step.warn(error.message, "the build starts again without --cache-from")
            requests = {name: _without_sources(one) for name, one in requests.items()}
        except (StepFailed, DockerfileError, BrokenPipeError):
            raise
        except (ShiplineError, OSError):
            repaired = repair(settings.home, damage, started_ns) or damage.found
            if not repaired or is_piped:
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


def _on_threads(
    requests: Mapping[str, BuildRequest],
    settings: Settings,
    step: Step,
    damage: Damage,
    *,
    verified: bool,
) -> dict[str, BuildResult]:
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TaskGroup() as group:
        task = group.start(_build_all, requests, settings, step, damage, verified)
    return task.result()


def _build_all(
    requests: Mapping[str, BuildRequest],
    settings: Settings,
    step: Step,
    damage: Damage,
    verified: bool,
) -> dict[str, BuildResult]:
    private_mounts()
    started_ns = time.time_ns()
    results: dict[str, BuildResult] = {}
    exported: set[Digest] = set()
    step = _named(step, *requests.values())
    with ExitStack() as stack:
        session = Session.open(settings, step, damage, stack, verified=verified)

        def run(name: str) -> None:
            below = _named(step.within(target=name) if name else step, requests[name])
            with in_target(name):
                result, made = build_target(requests[name], session, below)
            results[name] = result
            found = json.dumps(result.dependencies)
            step.note(**{f"materials {name}".rstrip(): found})
            exported.update(_exported(requests[name], made))
            session.images.add_target(name, result.images)

        def needed(name: str) -> list[str]:
            return [one for one in linked_targets(requests[name]) if one in requests]

        visit_graph(requests, needed, run, at_once=_TARGETS_AT_ONCE)
        if grew(settings.home, started_ns / 1e9):
            session.keep_once(step, exported)
    return {name: results[name] for name in requests}


def _named(step: Step, *requests: BuildRequest) -> Step:
    """The step, whose children are not named after their platform where there is one alone."""
    platforms = {one for request in requests for one in request.target_platforms}
    return step.within(single=True) if len(platforms) == 1 else step


def _exported(request: BuildRequest, results: Results) -> set[Digest]:
    """The layers that were written to files or loaded; an equal build reads them again."""
    formats = {format_of(one, request) for one in request.outputs if one.type in ARCHIVES}
    images = [image for one in formats for image in results[one].images]
    return {layer.descriptor.digest for image in images for layer in image.layers}
