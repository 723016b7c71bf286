"""The program on its way to a machine that lacks it."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from shipline.builders import carrying
from shipline.errors import BuilderError


class Said:
    """A pipe from a machine that says some lines, and keeps what it is sent."""

    def __init__(self, said: bytes) -> None:
        self._said = io.BytesIO(said)
        self.sent = b""

    def read(self, size: int) -> bytes:
        return self._said.read(size)

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None: ...


def test_the_archive_is_sent_where_it_is_asked_for() -> None:
    pipe = Said(b"send\nready\nPRI *")
    carrying.carry(pipe, "host")
    size = int.from_bytes(pipe.sent[:8])
    assert len(pipe.sent) == 8 + size
    with tarfile.open(fileobj=io.BytesIO(pipe.sent[8:])) as archive:
        names = {*archive.getnames()}
    assert {"shipline/__main__.py", "msgspec/__init__.py", "click/__init__.py"} <= names
    assert not [name for name in names if name.startswith(("/", "..", "pytest/"))]
    pipe = Said(b"ready\nPRI *")
    carrying.carry(pipe, "host")
    assert not pipe.sent and pipe.read(5) == b"PRI *"  # nothing of the next protocol is taken


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"no cpython-399 riscv64 musl\n", "it has cpython-399 riscv64 musl"),
        (b"", "it says nothing"),
        (b"Welcome to this machine!\n", "Welcome to this machine!"),
        (b"x" * 1000, "does not run"),
    ],
)
def test_what_cannot_be_carried_is_an_error(said: bytes, problem: str) -> None:
    with pytest.raises(BuilderError, match=problem):
        carrying.carry(Said(said), "host")


def test_another_kind_of_machine_is_told_apart_before_anything_is_sent(tmp_path: Path) -> None:
    words = [sys.executable, "-c", carrying.BOOTSTRAP, "key", "cpython-399 riscv64 musl", "x"]
    done = subprocess.run(words, env={"XDG_CACHE_HOME": str(tmp_path)}, capture_output=True)
    assert done.stdout.startswith(b"no cpython-3") and done.returncode == 3
    assert not list(tmp_path.iterdir())


def test_several_can_be_sent_to_a_new_machine_at_once(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        entry = tarfile.TarInfo("shipline/__main__.py")
        program = b"import shipline; print('it runs')"
        entry.size = len(program)
        archive.addfile(entry, io.BytesIO(program))
        archive.addfile(tarfile.TarInfo("shipline/__init__.py"))
    sent = len(raw.getvalue()).to_bytes(8) + raw.getvalue()
    words = [sys.executable, "-c", carrying.BOOTSTRAP, "key", carrying._kind(), "place"]
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    started = [
        subprocess.Popen(words, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    for one in started:  # all of them lack it
        assert one.stdout is not None
        assert one.stdout.readline() == b"send\n"
    for one in started:
        output, _ = one.communicate(sent, timeout=60)
        assert (output, one.returncode) == (b"ready\nit runs\n", 0)
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["key"]
