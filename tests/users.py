"""Commands as an ordinary user, on a machine where that user exists for the test alone.

with ordinary_user(subids=True) as user:
    done = user.run("build", "--push", "-t", "127.0.0.1:5000/x", str(user.home / "context"))

Each command sees /etc/passwd and its like through mounts of its own, and the interpreter, its
packages and our sources at places that the user can read. Nothing of that exists outside.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import shipline

TIMEOUT_S = 300
COUNT = 65_536
_OWN = os.getpid() % 20_000  # other processes that run tests have other users
UID, FIRST = 30_000 + _OWN, 1_000_000 + _OWN * COUNT  # the user, the first of its subordinate ids
_TUN = Path("/dev/net/tun")
_ETC = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nbuilder:x:{UID}:{UID}::{{home}}:/bin/sh\n",
    "group": f"root:x:0:\nbuilder:x:{UID}:\n",
}


@dataclass(frozen=True)
class User:
    """Somebody with a home directory; `outer` is a command that the user's session runs in."""

    place: Path
    outer: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        return self.place / "home"

    @property
    def state(self) -> Path:
        return self.home / ".local" / "state" / "shipline"

    def give(self, path: Path) -> None:
        """Make a tree the user's own."""
        for one in (path, *path.rglob("*")):
            os.chown(one, UID, UID, follow_symlinks=False)

    @property
    def python(self) -> str:
        return str(self.place / "python" / "bin" / Path(sys.executable).resolve().name)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`shipline` with these words."""
        return self.command(self.python, "-m", "shipline", *words, **environment)

    def command(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Any command, to its end."""
        with self.start(*command, **environment) as process:
            try:
                out, _ = process.communicate(timeout=TIMEOUT_S)
            finally:
                process.kill()
        return subprocess.CompletedProcess(command, process.returncode, out)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """The process of a command, without one in between."""
        variables = {
            "HOME": str(self.home),
            "LD_LIBRARY_PATH": str(self.place / "python" / "lib"),
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{self.place / 'src'}:{self.place / 'packages'}",
            **environment,
        }
        ids = ("--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--inh-caps=-all")
        words = ("setpriv", *ids, "env", "-i", *(f"{k}={v}" for k, v in variables.items()))
        lines = [*self._mounts(), f"exec {shlex.join((*words, *command))}"]
        return subprocess.Popen(
            [*self.outer, "unshare", "--mount", "sh", "-ec", "\n".join(lines)],
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def processes(self) -> list[str]:
        """The living processes of the user, and of ids that belong to the user."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdecimal() and _is_of_user(entry.stat().st_uid):
                    found.append((entry / "cmdline").read_text(errors="replace"))
        return found

    def _mounts(self) -> Iterator[str]:
        for file in (self.place / "etc").iterdir():
            yield shlex.join(("mount", "--bind", str(file), f"/etc/{file.name}"))
        for name, source in _SHOWN.items():
            yield shlex.join(("mount", "--bind", source, str(self.place / name)))
        if _TUN.exists():
            yield shlex.join(("mount", "--bind", str(self.place / "tun"), str(_TUN)))


def _is_of_user(uid: int) -> bool:
    return uid == UID or FIRST <= uid < FIRST + COUNT


_SHOWN = {
    "python": sys.base_prefix,
    "packages": sysconfig.get_paths()["platlib"],
    "src": str(Path(shipline.__file__).parents[1]),
}


@contextmanager
def ordinary_user(*, subids: bool, outer: Sequence[str] = ()) -> Iterator[User]:
    """A user for this block, with a range of subordinate ids or without."""
    place = Path(tempfile.mkdtemp(prefix="shipline-user-"))
    place.chmod(0o755)
    user = User(place, tuple(outer))
    try:
        for name in ("etc", *_SHOWN):
            (place / name).mkdir()
        ranges = f"builder:{FIRST}:{COUNT}\n" if subids else ""
        for name, text in {**_ETC, "subuid": ranges, "subgid": ranges}.items():
            (place / "etc" / name).write_text(text.format(home=user.home))
        if _TUN.exists():  # open to all, as where udev makes it
            os.mknod(place / "tun", _TUN.stat().st_mode, _TUN.stat().st_rdev)
            (place / "tun").chmod(0o666)
        user.home.mkdir()
        user.give(user.home)
        yield user
    finally:
        shutil.rmtree(place)
