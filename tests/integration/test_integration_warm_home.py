"""What is built does not depend on what was built before, nor on what is built beside it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from builds import Shipline, context
from peers import Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

LISTING = (
    "seen=$(find / -xdev -not -path '/dev*' -exec stat -c '%n %a %u %g' {} + | sort)"
    ' && echo "$seen" > /seen'
)
DOCKERFILES = {
    "links become directories": "FROM usrmerge\nCOPY rootfs/ /\n",
    "directories stay": "FROM alpine\nCOPY rootfs/ /\n",
    "nothing on one base": f"FROM usrmerge\nRUN chmod 711 /etc\nRUN true\nRUN {LISTING}\n",
    "nothing on another": f"FROM alpine\nRUN true\nRUN {LISTING}\n",
    "a root of another mode": f"FROM busybox\nRUN chmod 700 /\nRUN {LISTING}\n",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = context(tmp_path / "context", "")
    (place / "rootfs/lib/foo").mkdir(parents=True)
    (place / "rootfs/lib/foo/f").write_text("content")
    return place


def outcome(shipline: Shipline, source: Path, dockerfile: str) -> object:
    """The files that are made, without their times, or the error."""
    out = source.with_name("out.tar")
    done = shipline.build(
        "-f", "-", "-o", f"type=tar,dest={out}", source, stdin=dockerfile.encode()
    )
    if done.status:
        return [line for line in done.err.splitlines() if line.startswith("│ cannot")]
    with tarfile.open(out) as archive:
        files = [one for one in archive if not one.name.startswith("proc")]
        return {
            (one.name, one.type, one.mode, one.uid, one.gid, one.linkname, _content(archive, one))
            for one in files
        }


def _content(archive: tarfile.TarFile, one: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(one) if one.isreg() else None
    return (file or io.BytesIO()).read()


def test_no_earlier_build_changes_a_later_one(
    tmp_path: Path, base_images: Registry, source: Path
) -> None:
    def built(home: str, name: str) -> object:
        shipline = Shipline(tmp_path / home, base_images.address)
        return outcome(shipline, source, DOCKERFILES[name])

    cold = {name: built(f"cold {name}", name) for name in DOCKERFILES}
    assert "cannot copy to non-directory: /lib" in str(cold["links become directories"])
    for order in (list(DOCKERFILES), list(DOCKERFILES)[::-1]):
        assert {name: built(f"warm {order[0]}", name) for name in order} == cold
