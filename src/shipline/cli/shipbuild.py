"""The build step of `shipline ship`: the engine, with the events of the run.

Root builds in this process. An ordinary user builds in a child: the engine makes its process root
of a user namespace, which the project's own commands must not run in.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from typing import IO, Any

from shipline.build import BuildRequest
from shipline.cli import engine
from shipline.errors import Cancelled, ShiplineError
from shipline.events import Finished, Started, Step, Stream
from shipline.oci import Descriptor
from shipline.ship.plan import Builder
from shipline.tasks import check, on_cancel

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)
_SPANS = 1 << 32  # spans of a child, per span of ours


def builder(stream: Stream) -> Builder:
    """How a run builds: in this process, or in a child that is root of a user namespace."""

    def build(request: BuildRequest, step: Step) -> Descriptor:
        if os.geteuid() == 0:
            return engine.start(request, step).root
        return _in_child(request, step, stream)

    return build


def _in_child(request: BuildRequest, step: Step, stream: Stream) -> Descriptor:
    command = [sys.executable, "-c", "from shipline.cli.shipbuild import child; child()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    with process, on_cancel(process.terminate):
        pickle.dump(request, process.stdin)
        process.stdin.close()
        result = _follow(process.stdout, step, stream)
    check()
    if isinstance(result, Descriptor):
        return result
    raise result or ShiplineError(
        f"the build ended with {process.returncode}, without an error message"
    )


def _follow(source: IO[bytes], step: Step, stream: Stream) -> Descriptor | BaseException | None:
    """Pass the events of a child on, below `step`; the result or error that it ended with."""
    root = 0

    def ours(span: int) -> int:
        return step.span if span == root else step.span * _SPANS + span

    while True:
        try:
            found = pickle.load(source)
        except EOFError:
            return None
        if isinstance(found, (Descriptor, tuple)):
            return found if isinstance(found, Descriptor) else _error(*found)
        if isinstance(found, Started) and not found.parent:
            root = found.span
        elif isinstance(found, Started):
            stream.emit(replace(found, span=ours(found.span), parent=ours(found.parent)))
        elif not (isinstance(found, Finished) and found.span == root):
            stream.emit(replace(found, span=ours(found.span)))


def child() -> None:
    """Build the request on standard input; events and the result go to standard output."""
    ctypes.CDLL(None, use_errno=True).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    from shipline.cli.interrupts import run_cancellable

    request: BuildRequest = pickle.load(sys.stdin.buffer)
    engine.enter()
    out = sys.stdout.buffer

    def write(value: object) -> None:
        pickle.dump(value, out)
        out.flush()

    result: object
    try:
        with Stream(write) as stream, stream.step("build") as step:
            result = run_cancellable(lambda: engine.start(request, step), lambda: None).root
    except (ShiplineError, Cancelled) as error:
        result = (type(error).__module__, type(error).__qualname__, error.args, error.__dict__)
    write(result)


def _error(
    module: str, name: str, arguments: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    """The exception of the child, made without its class's own constructor, which may want more."""
    cls: type[BaseException] = getattr(import_module(module), name)
    error = cls.__new__(cls, *arguments)
    error.args = arguments
    error.__dict__.update(state)
    return error
