"""Base images for Dockerfiles of the tests, made by `examples/base_images.py`."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from peers.process import PeerFailed


class Addressed(Protocol):
    """A registry on loopback."""

    @property
    def address(self) -> str:
        """HOST:PORT."""


_SCRIPT = Path(__file__).parents[2] / "examples" / "base_images.py"


def cache_directory() -> Path:
    """Where base images are kept between runs; SHIPLINE_TEST_CACHE names another place."""
    default = Path("~/.cache/shipline-tests").expanduser()
    return Path(os.environ.get("SHIPLINE_TEST_CACHE", default))


def push_base_images(registry: Addressed, *names: str) -> None:
    """Push `busybox`, `alpine` or `usrmerge` as library/NAME, for amd64 and arm64.

    Made at most once per machine: other test processes wait. Raises PeerFailed.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(_SCRIPT), "--registry", registry.address]
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [*command, "--cache", str(cache / "base-images"), *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if done.returncode:
        raise PeerFailed(f"base images could not be made:\n{done.stdout}")
