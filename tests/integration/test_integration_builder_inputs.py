"""What a builder reads from this machine and writes to it, beside directories: layouts, caches in
directories, archives and Dockerfiles on standard input.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from builds import Shipline, context
from peers import Docker, Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

COPY = "FROM scratch\nCOPY seen /\n"


@pytest.fixture
def shipline(tmp_path: Path, docker: Docker, base_images: Registry) -> Shipline:
    environment = {"DOCKER_HOST": docker.host, "BUILDX_BUILDER": "docker"}
    return Shipline(tmp_path / "home", base_images.address, environment)


def archive(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def files(place: Path) -> dict[str, str]:
    return {one.name: one.read_text() for one in place.iterdir()}


@pytest.mark.parametrize("compress", [bytes, zstandard.ZstdCompressor().compress])
def test_a_context_on_standard_input(
    shipline: Shipline, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    sent = compress(archive(Dockerfile=COPY, Other=COPY + "COPY seen /again\n", seen="x" * 70_000))
    shipline.build("-o", tmp_path / "one", "-", stdin=sent).ok()
    assert files(tmp_path / "one") == {"seen": "x" * 70_000}
    shipline.build("-o", tmp_path / "two", "-f", "Other", "-", stdin=sent).ok()
    assert set(files(tmp_path / "two")) == {"seen", "again"}


def test_a_dockerfile_on_standard_input(shipline: Shipline, tmp_path: Path) -> None:
    place = context(tmp_path / "place", "not read", seen="x")
    shipline.build("-o", tmp_path / "one", "-f", "-", place, stdin=COPY.encode()).ok()
    assert files(tmp_path / "one") == {"seen": "x"}
    alone = b"FROM busybox AS made\nRUN echo y > /seen\nFROM scratch\nCOPY --from=made /seen /\n"
    shipline.build("--network=none", "-o", tmp_path / "two", "-", stdin=alone).ok()
    assert files(tmp_path / "two") == {"seen": "y\n"}
    assert "standard input is empty" in shipline.build("-").failed(2)


def test_a_dockerfile_that_is_not_there_is_told_before_the_build(
    shipline: Shipline, tmp_path: Path
) -> None:
    place = context(tmp_path / "place", COPY)
    assert "-f " in shipline.build("-f", place / "Dockerfil", place).failed(2)
    said = shipline.build("--build-context", f"more={tmp_path}/none", place).failed(2)
    assert "more" in said and "not a directory" in said


def test_named_contexts_are_layouts_and_directories(shipline: Shipline, tmp_path: Path) -> None:
    """Also one whose name is that of the main context, which other directories have in a build."""
    base = context(tmp_path / "base", "FROM busybox\nCOPY seen /base\n", seen="from the layout")
    layout = tmp_path / "layout"
    shipline.build("--builder=native", "-o", f"type=oci,dest={layout},tar=false", base).ok()
    more = context(tmp_path / "more", "", seen="from more")
    place = context(
        tmp_path / "place",
        "FROM base AS made\nRUN cat /base > /copied\n"
        "FROM scratch\nCOPY --from=made /copied /\nCOPY --from=dockerfile seen /\n",
    )
    words = ("--network=none", f"--build-context=dockerfile={more}", "-o", tmp_path / "out")
    shipline.build(*words, f"--build-context=base=oci-layout://{layout}", place).ok()
    assert files(tmp_path / "out") == {"copied": "from the layout", "seen": "from more"}
    done = shipline.build(*words, f"--build-context=base=oci-layout://{layout}:2", place)
    assert done.status == 0, "the tag of a layout's only image is not compared"
    said = shipline.build(*words, f"--build-context=base=oci-layout://{more}", place).failed(8)
    assert "not an OCI image layout" in said


def test_caches_in_directories_are_written_and_read(
    shipline: Shipline, docker: Docker, tmp_path: Path
) -> None:
    place = context(tmp_path / "place", "FROM busybox\nRUN head -c 8 /dev/urandom > /made\n")
    store = tmp_path / "store"
    caches = (f"--cache-to=type=local,dest={store}", f"--cache-from=type=local,src={store}")
    words = ("--network=none", "--progress=plain", *caches)
    said = shipline.build(*words, "-o", tmp_path / "one", place).ok().err
    assert "is left out" in said, "nothing has been written there yet"
    index = json.loads((store / "index.json").read_text())
    assert [one["annotations"] for one in index["manifests"]] == [
        {"org.opencontainers.image.ref.name": "latest"}
    ]
    assert docker.run("builder", "prune", "-af").returncode == 0
    shipline.build(*words, "-o", tmp_path / "two", place).ok()
    assert (tmp_path / "one/made").read_bytes() == (tmp_path / "two/made").read_bytes()
    assert docker.run("builder", "prune", "-af").returncode == 0
    options = f"--cache-from=type=local,src={store}"
    done = docker.run(
        "buildx", "build", "--network=none", options, f"-o={tmp_path / 'three'}", str(place)
    )
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "one/made").read_bytes() == (tmp_path / "three/made").read_bytes()


@pytest.mark.parametrize("method", ["check", "outline", "targets", "outline,format=json"])
def test_calls_are_answered_by_the_builder(
    shipline: Shipline, docker: Docker, tmp_path: Path, method: str
) -> None:
    """As buildx prints it."""
    text = "ARG A=1\n# made\nFROM busybox AS made\nMAINTAINER me\nFROM made AS Other\n"
    place = context(tmp_path / "place", text)
    done = shipline.build("--call", method, place)
    flags = ("buildx", "build", "--progress=quiet", "--call", method)
    peer = docker.run(*flags, place)
    assert done.out.strip() == peer.stdout.strip() and done.status == peer.returncode, done.err
    assert shipline.build("--call=check", "-f", place / "none", place).status == 2


def test_builds_are_in_the_history_under_their_names(
    shipline: Shipline, docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDX_CONFIG", str(tmp_path / "buildx"))  # of the peer
    place = context(tmp_path / "project", COPY, seen="x")
    metadata = tmp_path / "metadata.json"
    store = str(tmp_path / "buildx")
    shipline.build(f"--metadata-file={metadata}", place, BUILDX_CONFIG=store).ok()
    reference = json.loads(metadata.read_text())["buildx.build.ref"]
    builder, node, name = reference.split("/")
    assert (builder, node) == ("default", "default")
    listed = docker.run("buildx", "history", "ls", "--format=json").stdout.splitlines()
    (found,) = [one for one in map(json.loads, listed) if one["ref"].endswith(name)]
    assert found["name"] == "project" and found["status"] == "Completed"
    shown = docker.run("buildx", "history", "inspect", name).stdout
    assert str(place) in shown, shown
    assert "COPY seen" in docker.run("buildx", "history", "logs", name).stdout
