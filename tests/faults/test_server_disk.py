"""A full disk: pushes are refused with what is wrong, pulls go on, nothing stays behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nodes import node
from spec_client import OCTETS, Target, sha256, with_query

_ROOM = 6 << 20  # bytes
_TOO_MUCH = [b"z" * (_ROOM + (1 << 20)), b"z" * (9 << 20)]
"""Read by the event loop, and from 8 MiB on from the socket."""

pytestmark = [
    pytest.mark.root,
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_disk_can_be_emptied(small_disk: Path) -> None:
    with node(small_disk / "data") as running:
        target = Target(running.url, "x")
        digests = [target.push_blob(b"%d" % number) for number in range(20)]
        with suppress(OSError), (small_disk / "foreign").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        assert target.call("POST", "blobs/uploads/").status in (202, 507)
        found = [target.call("DELETE", f"blobs/{digest}").status for digest in digests]
        assert found == [202] * 20
        assert target.call("HEAD", f"blobs/{digests[0]}").status == 404


def test_full_disk_refuses_pushes_and_serves_pulls(small_disk: Path) -> None:
    with node(small_disk / "data") as running:
        target = Target(running.url, "x")
        digest = target.push_blob(b"before")
        location = target.start()
        for body in _TOO_MUCH:
            place = with_query(location, digest=sha256(body))
            assert target.call("PUT", place, body, OCTETS).status == 507
            whole = f"blobs/uploads/?digest={sha256(body)}"
            assert target.call("POST", whole, body, OCTETS).status == 507
        assert target.call("GET", location)["Range"] == "0-0"
        assert target.call("DELETE", location).status == 204
        assert list((running.data / "uploads").iterdir()) == []
        assert target.call("GET", f"blobs/{digest}").body == b"before"
        assert target.push_blob(b"after") == sha256(b"after")
