"""The tutorial does what it says: its blocks are run, in order, in one shell."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from peers import Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCKS = re.findall(r"^```sh *(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:5000"


def script(address: str) -> str:
    """All blocks but those to skip, each of which succeeds, or ends with 9 where it is to fail."""
    lines = ["set -u"]
    for kind, text in BLOCKS:
        if kind == "skip":
            continue
        status = 9 if kind == "fails" else 0
        lines.append(f"{text.replace(ADDRESS, address)}\ntest $? = {status} || exit 1")
        if "registry serve" in text:
            lines.append(f"until shipline ls {address} 2> /dev/null; do sleep 0.1; done")
    return "\n".join(lines)


def test_every_block_of_the_tutorial_works(base_images: Registry, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "SHIPLINE_HOME": str(tmp_path / "state"),
        "SHIPLINE_MIRRORS": f"docker.io={base_images.url}",
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script(address)],
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        status = shell.wait(300)
    finally:
        os.killpg(shell.pid, signal.SIGKILL)  # the registry, too
    shown = log.read_text()
    assert status == 0, shown
    assert f"{address}/team/app:v0.1.0" in shown
    assert "The release is refused: 1 fail." in shown
