"""Our registry node as people run it: `shipline registry serve` with a shipline.yaml."""

from __future__ import annotations

import os
import re
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import Forked
from nodes import Node
from shipline.cli import main

_START_S = 120.0


@contextmanager
def served(root: Path, section: str = "", *, port: str = "0", **environ: str) -> Iterator[Node]:
    """A node below `root`; `section` is what stands below `registry:` beside data and listen."""
    data = f"  data: data\n  listen: 127.0.0.1:{port}\n"
    text = textwrap.indent(textwrap.dedent(section), "  ")
    (root / "shipline.yaml").write_text(f"version: 1\nregistry:\n{data}{text}\n")
    log = root / "log"
    log.write_bytes(b"")
    words = ["registry", "serve"]
    process = Forked(
        main, words, cwd=root, environ={**os.environ, **environ}, stdout=log, stderr=log
    )
    try:
        yield Node(_url(log, process), root / "data", log, process)
    finally:
        process.kill()
        process.wait()


def _url(log: Path, process: Forked) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        told = re.findall(
            r'^(?:{.*"message":")?serving .* on ([^\s"]+)', log.read_text(), re.MULTILINE
        )
        if told:
            return str(told[-1])
        time.sleep(0.02)
    raise AssertionError(f"the node did not start:\n{log.read_text()}")
