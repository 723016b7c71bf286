"""The build engine as commands run it: in this process, or in a child for an ordinary user.

Root builds in this process. An ordinary user builds in a child: the engine makes its process root
of a user namespace, and the project's own commands must not run in there.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from shipline.build import BuildRequest
from shipline.errors import Cancelled, SandboxError, ShiplineError
from shipline.events import Finished, Started, Step, Stream
from shipline.oci import Descriptor
from shipline.propagation import current, within
from shipline.tasks import check, on_cancel
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.build import BuildResult, CheckResult, Context, Settings
    from shipline.dockerfile import Dockerfile, Outline
    from shipline.ship.plan import Builder


def enter() -> None:
    """Make an ordinary user root of a namespace, before any thread starts.

    If that is not allowed, the build fails where it first needs a mount.
    """
    from shipline.sandbox import enter_user_namespace

    os.environ.setdefault("HOME", os.path.expanduser("~"))  # in there it would be root's
    with suppress(SandboxError):
        enter_user_namespace()


def start(requests: Mapping[str, BuildRequest], step: Step) -> dict[str, BuildResult]:
    """Build targets, with the registries, the state directory and the streams of this process."""
    # a build makes many objects and few cycles: looking for them was 3 % of the smallest one, and
    # stops all threads for 0.1 s where there are 65,000 files
    gc.set_threshold(5_000_000, 20, 100)
    from shipline.build import build_targets

    with open_settings(*requests.values()) as settings:
        return build_targets(requests, settings, step)


@contextmanager
def fetched(request: BuildRequest, step: Step) -> Iterator[Context]:
    """The context of `request`, with a directory that has its files and goes with the block."""
    from shipline.build import fetched

    with open_settings(request) as settings, fetched(request, settings, step) as context:
        yield context


def call(request: BuildRequest, step: Step) -> CheckResult | Outline | Dockerfile:
    """The answer to --call, with the same registries and state directory."""
    from shipline.build import call

    with open_settings(request) as settings:
        return call(request, settings, step)


@contextmanager
def open_settings(*requests: BuildRequest) -> Iterator[Settings]:
    """What builds use of this process, with a client of registries that the block closes."""
    from shipline.build import Settings, insecure_hosts
    from shipline.cachestores import open_cache
    from shipline.home import state_directory
    from shipline.registry import Client

    insecure = [host for one in requests for host in insecure_hosts(one)]
    with Client.of(os.environ, insecure=insecure) as client:
        yield Settings(
            state_directory(),
            client.repository,
            os.environ,
            client.get,
            open_cache(client, os.environ),
            sys.stdin.buffer,
            sys.stdout.buffer,
        )


_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)
_SPANS = 1 << 32  # spans of a child, per span of ours


def builder(stream: Stream, other: str) -> Builder:
    """How a run builds: on the builder `other` if there is one, else in this process, or in a child
    that is root of a user namespace.
    """

    def build(requests: Mapping[str, BuildRequest], step: Step) -> dict[str, Descriptor]:
        if other:
            from shipline.cli.builders import build_on_builder, descriptors

            return descriptors(build_on_builder(other, requests, step))
        if os.geteuid() == 0:
            return _roots(start(requests, step))
        return _in_child(requests, step, stream)

    return build


def _roots(results: Mapping[str, BuildResult]) -> dict[str, Descriptor]:
    return {name: result.root for name, result in results.items()}


def _in_child(
    requests: Mapping[str, BuildRequest], step: Step, stream: Stream
) -> dict[str, Descriptor]:
    import pickle
    import subprocess

    from shipline.processes import python_command

    command = python_command("from shipline.cli.engine import child; child()")
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    with process, on_cancel(process.terminate):
        trace = replace(stream.trace, base=step.span * _SPANS) if stream.trace else None
        pickle.dump((dict(requests), trace, current()), process.stdin)
        process.stdin.close()
        result = _follow(process.stdout, step, stream)
    check()
    if isinstance(result, dict):
        return result
    raise result or ShiplineError(
        f"the build ended with {process.returncode}, without an error message", code="build-ended"
    )


def _follow(
    source: IO[bytes], step: Step, stream: Stream
) -> dict[str, Descriptor] | BaseException | None:
    """Pass the events of a child on, below `step`; the results or error that it ended with."""
    import pickle

    root = 0

    def ours(span: int) -> int:
        return step.span if span == root else step.span * _SPANS + span

    while True:
        try:
            message = pickle.load(source)
        except EOFError:
            return None
        if isinstance(message, (dict, tuple)):
            return message if isinstance(message, dict) else _error(*message)
        if isinstance(message, Started) and not message.parent:
            root = message.span
        elif isinstance(message, Started):
            stream.emit(replace(message, span=ours(message.span), parent=ours(message.parent)))
        elif isinstance(message, Finished) and message.span == root:
            step.note(**message.attributes)
        else:
            stream.emit(replace(message, span=ours(message.span)))


def child() -> None:
    """Build the requests on standard input; events and results go to standard output."""
    import ctypes
    import pickle

    ctypes.CDLL(None, use_errno=True).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    from shipline.cli.interrupts import run_cancellable

    requests: dict[str, BuildRequest]
    requests, trace, span = pickle.load(sys.stdin.buffer)
    enter()
    out = sys.stdout.buffer

    def write(value: object) -> None:
        pickle.dump(value, out)
        out.flush()

    result: object
    try:
        with Stream(write, trace=trace) as stream, stream.step("build") as step, within(span):
            result = run_cancellable(lambda: _roots(start(requests, step)), lambda: None)
    except (ShiplineError, Cancelled) as error:
        result = (type(error).__module__, type(error).__qualname__, error.args, error.__dict__)
    write(result)


def _error(
    module: str, name: str, arguments: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    """The exception of the child, made without its class's own constructor, which may want more."""
    from importlib import import_module

    cls: type[BaseException] = getattr(import_module(module), name)
    error = cls.__new__(cls, *arguments)
    error.args = arguments
    error.__dict__.update(state)
    return error
