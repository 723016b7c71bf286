"""A full disk: pushes are refused with what is wrong, pulls go on, nothing stays behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nodes import node
from shipline.metadata.drivers import Driver
from shipline.server import RegistrySection
from shipline.server.fsck import CheckSummary, check, open_offline
from spec_client import OCTETS, Target, sha256, to_json, with_query

_ROOM = 6 << 20  # bytes
_TOO_MUCH = [b"z" * (_ROOM + (1 << 20)), b"z" * (9 << 20)]
"""Read by the event loop, and from 8 MiB on from the socket."""

pytestmark = [pytest.mark.root]


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
        fill_up(small_disk)
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


@pytest.mark.parametrize("driver", ["sqlite", "rocksdb"])
def test_what_a_full_disk_refused_can_be_repeated_once_there_is_room(
    small_disk: Path, driver: Driver
) -> None:
    if driver == "rocksdb":
        pytest.importorskip("rocksdict")
    section = RegistrySection(metadata=driver)
    with node(small_disk / "data", section=section) as running:
        target = Target(running.url, "x")
        image, content = target.image("full"), b"c" * 100_000
        shared, new = target.push_blob(b"shared"), target.start()
        begun, whole = target.start(), target.start()
        chunk = {**OCTETS, "Content-Range": "0-49999"}
        assert target.call("PATCH", begun, content[:50_000], chunk).status == 202
        assert target.call("PATCH", whole, content, OCTETS).status == 202
        rest = {**OCTETS, "Content-Range": "50000-99999"}
        mount = f"blobs/uploads/?mount={shared}&from=x"
        raw, kind = to_json(image), {"Content-Type": image["mediaType"]}
        requests = {
            "finish": ("PUT", with_query(whole, digest=sha256(content)), b"", OCTETS),
            "last": ("PUT", with_query(begun, digest=sha256(content)), content[50_000:], rest),
            "first": ("PATCH", new, content[:50_000], chunk),
            "one": ("POST", f"blobs/uploads/?digest={sha256(content)}", content, OCTETS),
            "manifest": ("PUT", "manifests/v1", raw, kind),
        }

        def mounted(name: str) -> int:
            return target.sibling(name).call("POST", mount, b"").status

        def send() -> dict[str, int]:
            found = {name: target.call(*request).status for name, request in requests.items()}
            return {**found, "mount": mounted("other")}

        fill_up(small_disk)
        while mounted("room") == 201:  # the metadata's files may have some left
            pass
        refused = send()
        assert set(refused.values()) == {507}, refused
        (small_disk / "foreign").unlink()
        assert target.call("GET", whole)["Range"] == "0-99999"
        assert target.call("GET", begun)["Range"] == "0-49999"
        assert target.call("GET", new)["Range"] == "0-0"
        taken = send()
        assert taken == dict.fromkeys(refused, 201) | {"first": 202}
        assert target.call("GET", f"blobs/{sha256(content)}").body == content
        assert target.call("DELETE", new).status == 204
        assert running.stop() == 0
    with open_offline(small_disk / "data") as storage:
        assert list(check(storage, CheckSummary())) == []


def fill_up(disk: Path) -> None:
    with suppress(OSError), (disk / "foreign").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
