"""What is made once: packages of PyPI and npm, kept in pytest's cache; directories of a run."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def toolbox(store: Path, *packages: str) -> Path:
    """The directory with the programs of `packages` of PyPI."""
    place = store / "venv"

    def install() -> None:
        venv = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(place)]
        subprocess.run(venv, check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "install"]
        quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
        subprocess.run([*pip, *quiet, *packages], check=True, timeout=300)

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


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A directory that `make` has filled, in the first worker of the run that asks for `name`."""
    base = factory.getbasetemp()
    store = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    store.mkdir(exist_ok=True)
    place = store / "made"

    def fill() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        make(place)

    _once(store, (name,), fill)
    return place


def _once(store: Path, packages: tuple[str, ...], install: Callable[[], object]) -> None:
    """What is installed by halves is installed again."""
    with (store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = store / "installed"
        if not done.exists() or done.read_text() != "\n".join(packages):
            install()
            done.write_text("\n".join(packages))
