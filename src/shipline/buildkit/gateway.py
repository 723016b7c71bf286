"""Builds whose result is an input of others: it is taken where the frontend has made it, and the
build stays open until they are done with it, so that no step of it runs again.

Source: moby/buildkit, client/build.go, frontend/gateway; docker/buildx, build/build.go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from msgspec import Struct

from shipline.buildkit.control import Control
from shipline.buildkit.messages import (
    Empty,
    FrontendRequest,
    FrontendResponse,
    FrontendResult,
    ReturnRequest,
    SolveRequest,
    Status,
)
from shipline.buildkit.progress import run_build
from shipline.events import Step
from shipline.grpc.connection import Metadata, RpcError
from shipline.grpc.protobuf import decode
from shipline.tasks import TaskGroup
from shipline.values import replace

_SERVICE = "/moby.buildkit.v1.frontend.LLBBridge/"
_CONFIG = "containerimage.config"


class BuildInput(Struct, frozen=True):
    """The result of a build as an input: LLB definitions and configurations of images, both by
    platform, or by "" if the build names no platforms.
    """

    definitions: Mapping[str, bytes]
    configs: Mapping[str, bytes]


def run_open_build(
    control: Control, request: SolveRequest, step: Step, use: Callable[[BuildInput], object]
) -> dict[str, str]:
    """As `run_build`; `use` is called with the result once it is built, and exporters begin after
    it returned. What it raises ends the build.
    """
    return _run(control, request, step, lambda result: use(_input(result)), evaluate=True)


def call_frontend(control: Control, request: SolveRequest, step: Step) -> dict[str, bytes]:
    """What the frontend answers to the subrequest in the attributes of `request`: its documents, by
    name (frontend/subrequests). Raises as `run_build`; nothing is built.
    """
    found: dict[str, bytes] = {}
    _run(control, request, step, lambda result: found.update(result.metadata), evaluate=False)
    return found


def _run(
    control: Control,
    request: SolveRequest,
    step: Step,
    use: Callable[[FrontendResult], object],
    *,
    evaluate: bool,
) -> dict[str, str]:
    metadata = {"buildkit-controlapi-buildid": [request.ref]}
    inner = FrontendRequest(
        frontend=request.frontend,
        options=request.frontend_attrs,
        returns_result=True,
        returns_references=True,
        inputs=request.frontend_inputs,
        evaluate=evaluate,
    )
    with TaskGroup() as group:
        outer = replace(request, frontend="", frontend_inputs={})
        build = group.start(run_build, control, outer, step)
        try:
            answer = control.connection.ask(_SERVICE + "Solve", inner, FrontendResponse, metadata)
        except RpcError as error:  # the build fails with it, details included
            status = decode(Status, error.details) if error.details else Status()
            status = replace(status, code=error.code, message=error.message)
            with suppress(RpcError):
                _return(control, ReturnRequest(error=status), metadata)
        else:
            use(decode(FrontendResult, answer.result))
            with suppress(RpcError):
                _return(control, ReturnRequest(answer.result), metadata)
    return build.result()


def _return(control: Control, request: ReturnRequest, metadata: Metadata) -> None:
    control.connection.ask(_SERVICE + "Return", request, Empty, metadata)


def _input(result: FrontendResult) -> BuildInput:
    found = dict(result.references.references) if result.references else {}
    if result.reference is not None:
        found[""] = result.reference
    configs = {
        name: result.metadata.get(f"{_CONFIG}/{name}" if name else _CONFIG, b"") for name in found
    }
    return BuildInput({name: one.definition for name, one in found.items()}, configs)
