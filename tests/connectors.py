"""pasta and slirp4netns of Debian, beside the system: steps of other tests do not see them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from peers.bases import cache_directory

NAMES = ("pasta", "slirp4netns")
_PACKAGES = ("passt", "slirp4netns", "libslirp0")


@cache
def connector_path(name: str) -> str:
    """A PATH that has the program `name` and not the other ones."""
    store = cache_directory() / "connectors"
    store.mkdir(parents=True, exist_ok=True)
    with (store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (store / "root").exists():
            _fetch(store)
        others = [_without(path, store / "others") for path in os.environ["PATH"].split(":")]
    return ":".join([str(store / name), *others])


def _without(directory: str, store: Path) -> str:
    """`directory`, or links to all in it but the programs, where it has one of them."""
    if not any(Path(directory, name).exists() for name in NAMES):
        return directory
    shadow = store / directory.strip("/").replace("/", "-")
    shutil.rmtree(shadow, ignore_errors=True)
    shadow.mkdir(parents=True)
    for program in Path(directory).iterdir():
        if program.name not in NAMES:
            (shadow / program.name).symlink_to(program)
    return str(shadow)


def _fetch(store: Path) -> None:
    partial = store / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=root"]
    if subprocess.run([*apt, "download", *_PACKAGES], capture_output=True, cwd=partial).returncode:
        subprocess.run([*apt, "update"], check=True, capture_output=True)
        subprocess.run([*apt, "download", *_PACKAGES], check=True, capture_output=True, cwd=partial)
    for package in partial.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, partial / "files"], check=True)
    libraries = next((partial / "files/usr/lib").glob("*/libslirp.so.0")).parent
    relative = libraries.relative_to(partial / "files")
    for name in NAMES:
        (store / name).mkdir(exist_ok=True)
        program = store / name / name
        files = store / "root"
        program.write_text(
            f'#!/bin/sh\nLD_LIBRARY_PATH={files / relative} exec {files}/usr/bin/{name} "$@"\n'
        )
        program.chmod(0o755)
    (partial / "files").rename(store / "root")
