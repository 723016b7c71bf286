"""eStargz layers against what BuildKit and the programs of stargz-snapshotter make of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builds import Shipline, config, context, document, get
from peers import Containerd, Docker, Registry, dockerd
from peers.docker import unmount_below
from peers.podman import Podman
from proxy import FaultProxy
from shipline.layer import decompress

pytestmark = [pytest.mark.peers, pytest.mark.root]

TOC = "containerd.io/snapshot/stargz/toc.digest"
DOCKERFILE = """
FROM busybox
COPY page.html big /srv/
COPY --chown=3:4 page.html /srv/owned
RUN --network=none echo made > /srv/made && ln -s made /srv/link && ln /srv/made /srv/hard && \
    chmod 4711 /srv/made && mkfifo /srv/fifo && touch /srv/none && mkdir /srv/café && \
    rm /srv/page.html
"""
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def buildkit(tmp_path_factory: pytest.TempPathFactory, base_images: Registry) -> Iterator[Docker]:
    """Debian's engine: the newest one, built with a newer Go, panics when it writes a footer."""
    with dockerd(tmp_path_factory.mktemp("engine"), base_images) as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = context(tmp_path / "context", DOCKERFILE, page__html="hello\n")
    (place / "big").write_bytes(os.urandom((5 << 20) + 1))
    return place


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address)


def output(name: str, *attributes: str) -> str:
    return ",".join(["type=image", f"name={name}", "push=true", *attributes])


def tables(registry: Registry, repository: str) -> list[Rows]:
    """The rows of each layer, without times and places; its annotation and diff ID are checked."""
    manifest = document(registry, repository, "1")
    diff_ids = config(registry, repository, manifest)["rootfs"]["diff_ids"]
    found = []
    for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True):
        _, blob = get(registry, f"/v2/{repository}/blobs/{layer['digest']}")
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
        plain = decompress(io.BytesIO(blob), "gzip").read()
        assert diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
        assert layer["annotations"]["io.containers.estargz.uncompressed-size"] == str(len(plain))
        raw = zlib.decompress(blob[int(blob[-35:-19], 16) : -51], 31)
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            file = tar.extractfile("stargz.index.json")
            assert file is not None
            toc = file.read()
        assert layer["annotations"][TOC] == f"sha256:{hashlib.sha256(toc).hexdigest()}"
        rows = json.loads(toc)["entries"]
        found.append([{k: row[k] for k in row if k not in ("offset", "modtime")} for row in rows])
    return found


def test_tables_are_those_of_buildkit(
    shipline: Shipline, buildkit: Docker, base_images: Registry, source: Path
) -> None:
    wanted = ("oci-mediatypes=true", "compression=estargz", "force-compression=true")
    words = ("buildx", "build", "--provenance=false", "-o")
    theirs = output(f"{base_images.address}/stargz/theirs:1", *wanted)
    done = buildkit.run(*words, theirs, source)
    assert done.returncode == 0, done.stdout
    shipline.build("-o", output(f"{base_images.address}/stargz/ours:1", *wanted), source).ok()
    assert tables(base_images, "stargz/ours") == tables(base_images, "stargz/theirs")
    assert [len(rows) > 0 for rows in tables(base_images, "stargz/ours")] == [True] * 4


def test_other_compressions_are_as_if_there_had_been_no_estargz(
    shipline: Shipline, base_images: Registry, source: Path, tmp_path: Path
) -> None:
    """Layers that were first made as eStargz, and whose blobs were dropped for their files."""
    there = f"{base_images.address}/stargz"
    (source / "big").write_bytes(os.urandom(20 << 20))  # for a tar that is mounted

    def build(shipline: Shipline, name: str, compression: str) -> None:
        attributes = (f"compression={compression}", "rewrite-timestamp=true")
        words = ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")
        done = shipline.build("-o", output(f"{there}/{name}:1", *attributes), *words, source)
        assert "damaged" not in done.ok().err

    build(shipline, "first", "estargz")
    build(shipline, "plain", "gzip")
    build(shipline, "again", "estargz")
    build(Shipline(tmp_path / "other", base_images.address), "fresh", "gzip")
    first, plain, again, fresh = (
        document(base_images, f"stargz/{name}", "1")
        for name in ("first", "plain", "again", "fresh")
    )
    assert first == again
    assert plain["layers"] == fresh["layers"]
    own = [
        [TOC in layer.get("annotations", {}) for layer in one["layers"]] for one in (plain, first)
    ]
    assert own == [[False] * 4, [False, True, True, True]]  # the base is as it was


@pytest.mark.parametrize("writer", ["shipline", "buildkit"])
def test_layers_of_a_cache_are_used_as_they_are(
    shipline: Shipline,
    buildkit: Docker,
    base_images: Registry,
    source: Path,
    tmp_path: Path,
    writer: str,
) -> None:
    there = f"{base_images.address}/stargz"
    cache = f"type=registry,ref={there}/cache:{writer}"
    attributes = "mode=max,compression=estargz,oci-mediatypes=true,image-manifest=true"
    words = ("--cache-to", f"{cache},{attributes}")
    pack = ("oci-mediatypes=true", "compression=estargz")
    theirs = ("-o", output(f"{there}/cached:1", *pack), *words, source)
    if writer == "shipline":
        shipline.build(*theirs).ok()
    else:
        done = buildkit.run("buildx", "build", "--provenance=false", *theirs)
        assert done.returncode == 0, done.stdout
    other = Shipline(tmp_path / "other", base_images.address)
    ours = ("-o", output(f"{there}/uncached:1", *pack), "--cache-from", cache, source)
    done_here = other.build(*ours).ok()
    assert "CACHED" in done_here.err and "compress" not in done_here.err
    found = [document(base_images, f"stargz/{name}", "1") for name in ("cached", "uncached")]
    assert found[0]["layers"][1] == found[1]["layers"][1]


def test_programs_of_stargz_snapshotter_read_it(
    shipline: Shipline, image_store: Containerd, base_images: Registry, source: Path
) -> None:
    name = f"{base_images.address}/stargz/read:1"
    shipline.build("-o", output(name, "compression=estargz"), source).ok()
    done = image_store.ctr("images", "pull", "--plain-http", name)
    assert done.returncode == 0, done.stdout
    for layer in document(base_images, "stargz/read", "1")["layers"][1:]:
        words = ("images", "get-toc-digest", layer["digest"])
        done = image_store.ctr(*words, program="ctr-remote")
        assert done.stdout.strip() == layer["annotations"][TOC]


@pytest.fixture
def partial_puller(tmp_path: Path) -> Iterator[Podman]:
    """Podman that reads the table of a layer, and only those files that it does not have."""
    base = tmp_path / "podman"
    base.mkdir()
    options = 'enable_partial_images = "true", insecure_allow_unpredictable_image_contents = "true"'
    (base / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "{base}/run"\ngraphroot = "{base}/data"\n'
        f"[storage.options]\npull_options = {{{options}}}\n"
    )
    yield Podman({"CONTAINERS_STORAGE_CONF": str(base / "storage.conf")}, "")
    unmount_below(base)
    shutil.rmtree(base)


def test_podman_fetches_the_table_and_then_only_the_files_that_it_lacks(
    shipline: Shipline, base_images: Registry, partial_puller: Podman, tmp_path: Path
) -> None:
    place = context(tmp_path / "lazy", "FROM scratch\nCOPY big small /srv/\n", small="first")
    big = 3 << 20
    (place / "big").write_bytes(os.urandom(big))
    fetched = []
    with FaultProxy(base_images.port) as proxy:
        for number, text in enumerate(("first", "second")):
            (place / "small").write_text(text)
            tag = f"stargz/lazy:{number}"
            shipline.build(
                "-o", output(f"{base_images.address}/{tag}", "compression=estargz"), place
            ).ok()
            (layer,) = document(base_images, "stargz/lazy", str(number))["layers"]
            done = partial_puller.run("pull", "--tls-verify=false", f"127.0.0.1:{proxy.port}/{tag}")
            assert done.returncode == 0, done.stdout
            ranges = [one.headers["range"] for one in proxy.seen("GET", layer["digest"])]
            fetched.append(sum(map(size_of, ranges)))
    assert fetched[0] > big and fetched[1] < 2000
    name = f"127.0.0.1:{proxy.port}/stargz/lazy:1"
    root = Path(partial_puller.run("image", "mount", name).stdout.splitlines()[-1].strip())
    assert (root / "srv/small").read_text() == "second"
    assert (root / "srv/big").read_bytes() == (place / "big").read_bytes()


def size_of(header: str) -> int:
    """How many bytes `bytes=FIRST-LAST` asks for."""
    first, _, last = header.removeprefix("bytes=").partition("-")
    return int(last) - int(first) + 1
