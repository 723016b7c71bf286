"""Packages of PyPI and npm in places of their own, made once and kept in pytest's cache."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def toolbox(store: Path, *packages: str) -> Path:
    """The directory with the programs of `packages` of PyPI."""
    place = store / "venv"

    def install() -> None:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        pip = [str(place / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True, timeout=300)

    _once(store, packages, install)
    return place / "bin"


def node_packages(store: Path, *packages: str) -> Path:
    """The directory with the `node_modules` of `packages` of npm; their scripts do not run."""

    def install() -> None:
        shutil.rmtree(store / "node_modules", ignore_errors=True)
        (store / "package.json").write_text("{}")
        npm = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts"]
        subprocess.run([*npm, *packages], cwd=store, check=True, timeout=300)

    _once(store, packages, install)
    return store


def _once(store: Path, packages: tuple[str, ...], install: Callable[[], object]) -> None:
    """What is installed by halves is installed again."""
    with (store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = store / "installed"
        if not done.exists() or done.read_text() != "\n".join(packages):
            install()
            done.write_text("\n".join(packages))
