"""The one place where the command line meets the build engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from shipline.build import BuildRequest
from shipline.errors import SandboxError
from shipline.events import Step

if TYPE_CHECKING:
    from shipline.build import BuildResult, CheckResult, Settings


def enter() -> None:
    """Make an ordinary user root of a namespace, before any thread starts.

    Where that is not allowed, the build goes on until it needs a mount and tells it then.
    """
    from shipline.sandbox import enter_user_namespace

    os.environ.setdefault("HOME", os.path.expanduser("~"))  # in there it would be root's
    with suppress(SandboxError):
        enter_user_namespace()


def start(request: BuildRequest, step: Step) -> BuildResult:
    """Build, with the registries, the state directory and the streams of this process."""
    from shipline.build import build

    with _settings(request) as settings:
        return build(request, settings, step)


def check(request: BuildRequest, step: Step) -> CheckResult:
    """What the build checks find, with the same registries and state directory."""
    from shipline.build import check

    with _settings(request) as settings:
        return check(request, settings, step)


@contextmanager
def _settings(request: BuildRequest) -> Iterator[Settings]:
    from shipline.api import open_client, state_directory
    from shipline.build import Settings

    insecure = any(output.insecure for output in request.outputs)
    with open_client(*({name.host for name in request.tags} if insecure else ())) as client:
        yield Settings(
            state_directory(),
            client.repository,
            os.environ,
            client.get,
            sys.stdin.buffer,
            sys.stdout.buffer,
        )
