"""The one place where the command line meets the build engine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from shipline.build import BuildRequest
from shipline.events import Step

if TYPE_CHECKING:
    from shipline.build import BuildResult


def start(request: BuildRequest, step: Step) -> BuildResult:
    """Build, with the registries, the state directory and the streams of this process."""
    from shipline.api import open_client, state_directory
    from shipline.build import Settings, build

    insecure = any(output.enabled("registry.insecure") for output in request.outputs)
    with open_client(*({name.host for name in request.tags} if insecure else ())) as client:
        settings = Settings(
            state_directory(), client.repository, os.environ, sys.stdin.buffer, sys.stdout.buffer
        )
        return build(request, settings, step)
