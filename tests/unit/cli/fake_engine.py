"""`shipline` with a build engine that does what the target stage says: run as a program."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from shipline.build import BuildRequest
from shipline.cli import engine, main
from shipline.errors import Span, StepFailed
from shipline.events import Step
from shipline.oci import Descriptor, Manifest, Platform, Reference, media
from shipline.tasks import check, sleep

if TYPE_CHECKING:
    from shipline.build import BuildResult


@dataclass(frozen=True)
class Built:
    platform: Platform
    config_descriptor: Descriptor
    manifest: Manifest


@dataclass(frozen=True)
class Result:
    """What the command line reads of a BuildResult, without loading the engine."""

    root: Descriptor
    images: tuple[Built, ...]
    names: tuple[Reference, ...]
    invocation: str = "run"
    provenance: Mapping[Platform, object] = field(default_factory=dict)
    context: None = None
    documents: Mapping[Descriptor, bytes] = field(default_factory=dict)
    by_manifest: bool = False


def start(request: BuildRequest, step: Step) -> BuildResult:
    act = {"fail": _fail, "wait": _wait, "stubborn": _stubborn, "crash": _crash}
    act.get(request.target or "", _succeed)(step)
    config = Descriptor.of(b"{}", media.OCI_CONFIG)
    manifest = Manifest.make(config, [])
    built = Built(Platform("linux", "amd64"), config, manifest)
    return cast("BuildResult", Result(manifest.descriptor, (built,), request.tags))


def _succeed(step: Step) -> None:
    with step.step("load build definition from Dockerfile", kind="internal"):
        pass
    with step.step("FROM alpine", platform="linux/amd64", number="1/3", kind="pull") as base:
        base.cached()
    with step.step("RUN make", platform="linux/amd64", number="2/3", kind="run") as run:
        run.output(b"compiling\n\xff\x1b[2J\x1b[31mred\x1b[0m\n50%\r100%\nno end")
        with run.step("layer", kind="upload") as upload:
            upload.progress(1_000_000, 2_000_000)
            upload.progress(2_000_000, 2_000_000)
    with step.step("COPY . /app", platform="linux/amd64", number="3/3", kind="copy") as copy:
        copy.warn("nothing was copied", "look into .dockerignore")


def _fail(step: Step) -> None:
    span = Span("Dockerfile", 9, 10, text="RUN make \\\n  all")
    with step.step("RUN make all", platform="linux/arm64", number="2/2", kind="run") as run:
        run.output(b"no rule to make target 'all'\n", 2)
        raise StepFailed(
            "RUN make all did not succeed",
            status=2,
            span=span,
            platform="linux/arm64",
            log=("no rule to make target 'all'",),
            hint="add the target",
        )


def _wait(step: Step) -> None:
    with step.step("RUN sleep", kind="run"):
        print("waiting", flush=True)
        try:
            sleep(60)
        finally:
            time.sleep(0.2)
            print("cleaned up", flush=True)


def _stubborn(step: Step) -> None:
    print("waiting", flush=True)
    try:
        sleep(60)
    finally:
        print("cleaning up", flush=True)
        time.sleep(60)


def _crash(step: Step) -> None:
    check()
    raise ZeroDivisionError("a bug")


def run(arguments: Sequence[str] | None = None) -> int:
    engine.start = lambda requests, step: {"": start(requests[""], step)}
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run())
