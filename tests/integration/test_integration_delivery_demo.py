"""`make demo-delivery`: the example goes from commits to production; a bad canary is taken back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from peers.bases import cache_directory

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.peers, pytest.mark.root]


def test_a_commit_reaches_production_and_a_bad_one_is_taken_back(tmp_path: Path) -> None:
    for program in ("npm", "nginx", "prometheus", "crun"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    examples = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", examples, ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / ".demo").mkdir()
    (tmp_path / ".demo/base-images").symlink_to(cache_directory() / "base-images")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHIPLINE_")}
    done = subprocess.run(
        [sys.executable, str(examples / "delivery.py"), "--quick"],
        env=kept | {"BUILDKIT_PROGRESS": "plain"},
        capture_output=True,
        text=True,
        timeout=900,  # most of it is spent in npm and the build
    )
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-2000:]
    assert "rolled back and held" in done.stderr
    said = re.findall(r" UTC  [0-9a-f]{12}  (.*?)  +Demo", done.stdout)
    assert said == [
        "hold links v0.2.0 in production",
        "roll back links to v0.1.0 in production",
        "give links v0.2.0 20 % in production",
        "promote links v0.1.0 from staging to production",
    ]
