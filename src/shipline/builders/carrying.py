"""This program, carried to a machine that lacks it: what is installed here, as one archive.

The other machine needs Python alone, the same version of it and the same kind of machine, since
libraries are compiled for these. The archive stays there, in the user's cache, until it changes.
"""

from __future__ import annotations

import hashlib
import io
import platform
import shlex
import sys
import tarfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from isal import igzip
from packaging.requirements import Requirement

import shipline
from shipline.errors import BuilderError
from shipline.grpc.connection import Pipe

_LONGEST_LINE = 400  # bytes
_UNPACKED = "shipline/program"  # in the directory for caches
BOOTSTRAP = """
import os, platform, shutil, sys, tarfile, tempfile, time
key, kind, place = sys.argv[1:4]
words = sys.argv[4:]
here = f"{sys.implementation.cache_tag} {platform.machine()} {platform.libc_ver()[0]}"
if here != kind:
    print(f"no {here}", flush=True)
    sys.exit(3)
place = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), place)
own = os.path.join(place, key)
if os.path.isdir(own):
    os.utime(own)
    print("ready", flush=True)
else:
    print("send", flush=True)
    os.makedirs(place, mode=0o700, exist_ok=True)
    left = int.from_bytes(os.read(0, 8), "big")
    with tempfile.TemporaryFile() as archive:
        while left:
            data = os.read(0, min(left, 1 << 20))
            if not data:
                sys.exit(1)
            archive.write(data)
            left -= len(data)
        archive.seek(0)
        unpacked = tempfile.mkdtemp(dir=place)
        try:
            with tarfile.open(fileobj=archive) as opened:
                opened.extractall(unpacked, filter="data")
            os.rename(unpacked, own)
        except OSError:  # it is there: another one was sent it, too
            os.utime(own)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
    for name in os.listdir(place):
        other = os.path.join(place, name)
        if os.path.isdir(other) and time.time() - os.path.getmtime(other) > 30 * 86400:
            shutil.rmtree(other, ignore_errors=True)
    print("ready", flush=True)
os.environ["PYTHONPATH"] = own
os.execv(sys.executable, [sys.executable, "-s", "-m", "shipline", *words])
"""
"""What runs there first: it has the archive sent if it lacks it, then becomes the program."""


def carried_command(words: str) -> str:
    """A command of a shell that runs this program with `words`, after `carry`."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = f"$(command -v {version} || command -v python3 || echo {version})"
    arguments = [BOOTSTRAP, _key(), _kind(), _UNPACKED]
    return f'"{python}" -c {shlex.join(arguments)} {words}'


def carry(pipe: Pipe, shown: str) -> None:
    """Send the archive if the other side, `shown` in messages, asks for it. Raises BuilderError."""
    while True:
        said = _line(pipe)
        if said == "send":
            data = _archive()
            pipe.write(len(data).to_bytes(8) + data)
        elif said == "ready":
            return
        elif said.startswith("no "):
            raise BuilderError(
                f"shipline cannot be copied to {shown}: it has {said[3:]}, and this machine"
                f" {_kind()}",
                code="builder-ssh",
                hint="install it there (pip install shipline), and leave copy=true out",
            )
        else:
            raise BuilderError(
                f"{shown} does not run what it is sent: {said or 'it says nothing'}",
                code="builder-ssh",
            )


def _line(pipe: Pipe) -> str:
    """A line, and nothing of what follows it."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
        try:
            data = pipe.read(1)
        except OSError:
            data = b""
        if not data:
            break
        line += data
    return line.decode(errors="replace").strip()


def _kind() -> str:
    """What compiled libraries are made for."""
    machine, libc = platform.machine(), platform.libc_ver()[0]
    return f"{sys.implementation.cache_tag} {machine} {libc}"


def _key() -> str:
    """Names what is in the archive, without reading it."""
    found = hashlib.sha256(_kind().encode())
    for name, path in sorted(_files()):
        state = path.stat()
        found.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return found.hexdigest()[:32]


def _archive() -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, path in sorted(_files()):
            archive.add(path, name, recursive=False)
    return bytes(igzip.compress(raw.getvalue(), 1))


def _files() -> Iterator[tuple[str, Path]]:
    """The files of this package and of all that it requires, by name in the archive."""
    own = Path(shipline.__file__).parent
    for path in own.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(Path("shipline") / path.relative_to(own)), path
    for distribution in _required():
        for file in distribution.files or ():
            name, path = str(file), Path(str(file.locate()))
            if not name.startswith("..") and not name.endswith(".pyc") and path.is_file():
                yield name, path


def _required() -> list[metadata.Distribution]:
    """The distributions that this one requires, and those that they do."""
    found: dict[str, metadata.Distribution] = {}
    left = list(metadata.distribution("shipline").requires or ())
    while left:
        requirement = Requirement(left.pop())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        distribution = metadata.distribution(requirement.name)
        if distribution.name not in found:
            found[distribution.name] = distribution
            left += distribution.requires or ()
    return list(found.values())
