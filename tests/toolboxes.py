"""Programs from PyPI in an environment of their own, made once and kept in pytest's cache."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path


def toolbox(store: Path, *packages: str) -> Path:
    """The directory with the programs of `packages`; a half made one is made anew."""
    with (store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place, done = store / "venv", store / "installed"
        if not done.exists() or done.read_text() != "\n".join(packages):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
            pip = [str(place / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *packages], check=True, timeout=300)
            done.write_text("\n".join(packages))
    return place / "bin"
