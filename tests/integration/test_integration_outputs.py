"""Results that are files, and what other programs make of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from builds import PLATFORMS, Shipline, context, document, leftovers
from peers import Docker, Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

SMALL = """
FROM busybox
COPY page.html /srv/
RUN echo made > /srv/made && ln -s made /srv/link && chmod 4711 /srv/made
CMD ["cat", "/srv/page.html"]
"""
OWN = "FROM scratch\nCOPY page.html /\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return context(tmp_path / "small", SMALL, page__html="hello\n")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return context(tmp_path / "own", OWN, page__html="hello\n")


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address)


def with_engine(shipline: Shipline, docker: Docker) -> Shipline:
    environment = {"DOCKER_HOST": docker.host, "DOCKER_CONFIG": str(docker.config)}
    return Shipline(shipline.home, shipline.mirror, environment)


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_local_holds_the_files(shipline: Shipline, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shipline.build("-o", out, small).ok()
    assert (out / "srv/page.html").read_text() == "hello\n"
    assert os.readlink(out / "srv/link") == "made"
    assert (out / "srv/made").stat().st_mode & 0o7777 == 0o4711
    assert (out / "bin/busybox").exists()
    assert leftovers(shipline.home) == []


@pytest.mark.parametrize(
    ("argument", "attribute", "dated"),
    [
        (("--build-arg", "SOURCE_DATE_EPOCH=1000"), "", True),
        ((), ",source-date-epoch=1000", True),
        (("--build-arg", "SOURCE_DATE_EPOCH=1000"), ",source-date-epoch=", False),
    ],
)
def test_files_have_the_time_of_the_epoch(
    shipline: Shipline,
    own: Path,
    tmp_path: Path,
    argument: tuple[str, ...],
    attribute: str,
    dated: bool,
) -> None:
    """As in BuildKit, whatever times they have in the image."""
    out, archive = tmp_path / "out", tmp_path / "out.tar"
    outputs = (f"type=local,dest={out}{attribute}", f"type=tar,dest={archive}{attribute}")
    shipline.build("-o", outputs[0], "-o", outputs[1], *argument, own).ok()
    with tarfile.open(archive) as tar:
        times = {entry.mtime for entry in tar} | {int((out / "page.html").stat().st_mtime)}
    assert (times == {1000}) is dated


def test_local_splits_by_platform(shipline: Shipline, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shipline.build("-o", out, "--platform", PLATFORMS, own).ok()
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert found == ["linux_amd64/page.html", "linux_arm64/page.html"]


def test_delete_leaves_what_the_build_wrote(shipline: Shipline, own: Path, tmp_path: Path) -> None:
    out, aside = tmp_path / "out", tmp_path / "aside"
    for directory in (out / "old/deep", out / "linux_arm64", aside):
        directory.mkdir(parents=True)
        (directory / "file").touch()
    (out / "to").symlink_to(aside)
    output = f"type=local,dest={out},mode=delete"
    shipline.build("-o", output, own).ok()
    assert [path.name for path in out.rglob("*")] == ["page.html"]
    shipline.build("-o", output, "--platform", PLATFORMS, own).ok()
    assert sorted(path.name for path in out.iterdir()) == ["linux_amd64", "linux_arm64"]
    merged = context(tmp_path / "merged", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /\n")
    for machine in ("amd64", "arm64"):
        (merged / machine).touch()
    shipline.build("-o", f"{output},platform-split=false", "--platform", PLATFORMS, merged).ok()
    assert sorted(path.name for path in out.rglob("*")) == ["amd64", "arm64"]
    assert (aside / "file").exists()
    (out / "old").touch()
    shipline.build("-o", f"type=local,dest={out}", own).ok()
    assert (out / "old").exists()


def test_no_file_of_a_platform_replaces_that_of_another(
    shipline: Shipline, own: Path, tmp_path: Path
) -> None:
    for kind in ("local", "tar"):
        output = f"type={kind},dest={tmp_path / kind},platform-split=false"
        said = shipline.build("-o", output, "--platform", PLATFORMS, own).failed(2)
        said = " ".join(said.replace("│", " ").split())
        assert "cannot overwrite page.html from linux/amd64 with linux/arm64" in said


def test_docker_types_have_annotations_and_zstd(
    shipline: Shipline, own: Path, tmp_path: Path
) -> None:
    def manifest(layout: Path) -> Any:
        (found,) = json.loads((layout / "index.json").read_bytes())["manifests"]
        assert found["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
        blob = layout / "blobs" / found["digest"].replace(":", "/")
        return json.loads(blob.read_bytes())

    first, second = tmp_path / "first", tmp_path / "second"
    output = "type=oci,tar=false,oci-mediatypes=false"
    shipline.build("-o", f"{output},dest={first},compression=zstd,annotation.a=b", own).ok()
    layer = "application/vnd.docker.image.rootfs.diff.tar.zstd"
    assert manifest(first)["annotations"] == {"a": "b"}
    assert [one["mediaType"] for one in manifest(first)["layers"]] == [layer]
    child = context(tmp_path / "child", "FROM base\nCOPY Dockerfile /\n")
    base = f"--build-context=base=oci-layout://{first}"
    shipline.build("-o", f"{output},dest={second}", base, child).ok()
    kinds = [one["mediaType"] for one in manifest(second)["layers"]]
    assert kinds == [layer, layer.replace("zstd", "gzip")]


def test_delete_spares_what_the_build_needs(shipline: Shipline, own: Path, tmp_path: Path) -> None:
    for place, what in (
        (own, "a context"),
        (tmp_path, "a context"),
        (shipline.home, "the state directory"),
        (Path("/"), "a context"),
        (Path.cwd(), "the working directory"),
        (Path("/dev"), "what is mounted"),
    ):
        said = shipline.build("-o", f"type=local,dest={place},mode=delete", own).failed(2)
        assert f"also {what}" in " ".join(said.replace("│", " ").split()), said
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/kept").mkdir(parents=True)
    said = shipline.build("-o", f"type=local,dest={link},mode=delete", own).failed(2)
    assert "is a symbolic link" in said
    assert (tmp_path / "elsewhere/kept").exists() and (own / "page.html").exists()


def test_archives_go_to_standard_output_by_default(shipline: Shipline, own: Path) -> None:
    for output, member in (("type=tar", "page.html"), ("type=oci", "oci-layout")):
        with shipline.start("-o", output, own) as process:
            streamed, _ = process.communicate(b"", 60)
        with tarfile.open(fileobj=io.BytesIO(streamed)) as tar:
            assert member in tar.getnames()


def test_outputs_of_one_build_are_independent(
    shipline: Shipline, base_images: Registry, small: Path, tmp_path: Path
) -> None:
    """Each is what it is alone, whatever the compression and media types of the others."""
    name = f"{base_images.address}/demo/several:1"
    epoch = ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")
    outputs = {
        "oci.tar": "type=oci,dest={},compression=zstd,rewrite-timestamp=true",
        "docker.tar": "type=docker,dest={},oci-mediatypes=false,rewrite-timestamp=true",
        "estargz.tar": "type=oci,dest={},compression=estargz,rewrite-timestamp=true",
    }
    alone, together = tmp_path / "alone", tmp_path / "together"
    words: list[str | Path] = ["-o", f"type=image,name={name},push=true,rewrite-timestamp=true"]
    for file, output in outputs.items():
        words += ["-o", output.format(together / file)]
        one = Shipline(tmp_path / f"home-{file}", shipline.mirror)
        one.build("-o", output.format(alone / file), *epoch, small).ok()
    shipline.build(*words, *epoch, small).ok()
    for file in outputs:
        assert (together / file).read_bytes() == (alone / file).read_bytes(), file
    assert len(document(base_images, "demo/several", "1")["layers"]) == 3


def test_tar_goes_to_a_file_and_to_standard_output(
    shipline: Shipline, small: Path, tmp_path: Path
) -> None:
    file = tmp_path / "out.tar"
    shipline.build("-o", f"type=tar,dest={file}", small).ok()
    with shipline.start("-o", "-", small) as process:
        streamed, _ = process.communicate(b"", 60)
    assert process.returncode == 0
    for archive in (file.read_bytes(), streamed):
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            made = tar.getmember("srv/made")
            assert (made.mode, made.uid, made.size) == (0o4711, 0, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out.tar", "small"]


def test_skopeo_reads_an_oci_archive(shipline: Shipline, own: Path, tmp_path: Path) -> None:
    file = tmp_path / "image.tar"
    shipline.build("-t", "demo/x:1", "-o", f"type=oci,dest={file}", "--platform", PLATFORMS, own)
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci-archive:{file}"], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    architectures = [
        one["platform"]["architecture"] for one in json.loads(done.stdout)["manifests"]
    ]
    assert architectures == ["amd64", "arm64"]
    copied = subprocess.run(
        ["skopeo", "copy", "--all", f"oci-archive:{file}:1", f"dir:{tmp_path / 'copy'}"],
        capture_output=True,
    )
    assert copied.returncode == 0, copied.stderr


def test_oci_directory_is_an_image_layout(shipline: Shipline, own: Path, tmp_path: Path) -> None:
    place = tmp_path / "layout"
    shipline.build("-t", "x:1", "-o", f"type=oci,dest={place},tar=false", own).ok()
    done = subprocess.run(["skopeo", "inspect", f"oci:{place}:1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for blob in (place / "blobs/sha256").iterdir():
        assert digest_of(blob.read_bytes()) == f"sha256:{blob.name}"


def test_an_oci_directory_keeps_images_of_other_names(
    shipline: Shipline, docker: Docker, own: Path, tmp_path: Path
) -> None:
    indexes = []
    for builder in ("theirs", "ours"):
        place = tmp_path / builder
        for name, label in (("", "1"), (",name=x:1", "2"), (",name=y:1", "3"), (",name=x:1", "4")):
            words = ("-o", f"type=oci,dest={place},tar=false{name}", "--label", f"l={label}", own)
            if builder == "ours":
                shipline.build(*words).ok()
            else:
                done = docker.run("buildx", "build", "--provenance=false", *words)
                assert done.returncode == 0, done.stdout
        indexes.append(json.loads((place / "index.json").read_bytes())["manifests"])
    theirs, ours = (
        [
            (
                one["annotations"].get("io.containerd.image.name"),
                one["annotations"]["org.opencontainers.image.ref.name"],
            )
            for one in index
        ]
        for index in indexes
    )
    assert ours == theirs
    assert len({one["digest"] for one in indexes[1]}) == 3


def test_docker_loads_the_archive_and_the_image(
    shipline: Shipline, docker: Docker, small: Path, tmp_path: Path
) -> None:
    file = tmp_path / "image.tar"
    shipline.build("-t", "from/archive:1", "-o", f"type=docker,dest={file}", small).ok()
    assert docker.run("load", "-i", file).returncode == 0
    with_engine(shipline, docker).build("-t", "from/load:1", "--load", small).ok()
    for name in ("from/archive:1", "from/load:1"):
        done = docker.run("run", "--rm", "--network=none", "--pull=never", name)
        assert (done.returncode, done.stdout) == (0, "hello\n"), name
        docker.run("rmi", "--force", name)


def test_docker_loads_every_platform(shipline: Shipline, docker: Docker, small: Path) -> None:
    words: tuple[str | Path, ...] = ("-t", "from/load:2", "--load", "--platform", PLATFORMS)
    with_engine(shipline, docker).build(*words, small).ok()
    for platform in PLATFORMS.split(","):
        words = ("run", "--rm", "--network=none", "--pull=never", "--platform", platform)
        done = docker.run(*words, "from/load:2", "uname", "-m")
        machine = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}[platform]
        assert (done.returncode, done.stdout) == (0, f"{machine}\n")
    docker.run("rmi", "--force", "from/load:2")


def test_load_without_an_engine_fails_before_the_build(
    shipline: Shipline, own: Path, tmp_path: Path
) -> None:
    nowhere = f"unix://{tmp_path}/no-socket"
    done = shipline.build("-t", "x", "--load", own, DOCKER_HOST=nowhere).failed(13)
    assert "start the engine" in done and "COPY" not in done
    if not any(Path("/run", name).exists() for name in ("docker.sock", "podman/podman.sock")):
        said = shipline.build("-t", "x", "--load", own, PATH="/nowhere").failed(13)
        assert "no container engine was found" in said and "CONTAINERD_ADDRESS" in said
    assert leftovers(shipline.home) == []


def test_files_with_facts_are_those_of_buildx(
    shipline: Shipline, base_images: Registry, small: Path, tmp_path: Path
) -> None:
    name = f"{base_images.address}/demo/facts:1"
    iid, facts = tmp_path / "iid", tmp_path / "facts.json"
    words = ("--push", "-t", name, "--iidfile", iid, "--metadata-file", facts)
    shipline.build(*words, small).ok()
    found = json.loads(facts.read_text())
    manifest = document(base_images, "demo/facts", "1")
    assert found["containerimage.config.digest"] == manifest["config"]["digest"]
    assert iid.read_text() == manifest["config"]["digest"]
    assert found["image.name"] == name
    assert found["containerimage.descriptor"]["digest"] == found["containerimage.digest"]
    assert found["buildx.build.ref"].count("/") == 2
    shipline.build(*words, "--platform", PLATFORMS, small).ok()
    index = json.loads(facts.read_text())["containerimage.digest"]
    assert iid.read_text() == index
    assert "config.digest" not in facts.read_text()


def test_quiet_prints_the_id_alone(
    shipline: Shipline, base_images: Registry, own: Path, tmp_path: Path
) -> None:
    name = f"{base_images.address}/demo/quiet:1"
    iid = tmp_path / "iid"
    done = shipline.build("-q", "--push", "-t", name, "--iidfile", iid, own).ok()
    assert done.err == ""
    assert done.out == f"{iid.read_text()}\n"


def test_failed_build_leaves_no_older_id(shipline: Shipline, own: Path, tmp_path: Path) -> None:
    iid = tmp_path / "iid"
    iid.write_text("older")
    shipline.build("--iidfile", iid, "--target", "none", own).failed(4)
    assert not iid.exists()


def test_name_of_an_output_is_pushed_to(
    shipline: Shipline, base_images: Registry, own: Path
) -> None:
    name = f"{base_images.address}/demo/output:1"
    shipline.build("-o", f"type=image,name={name},push=true", own).ok()
    assert document(base_images, "demo/output", "1")["layers"]


def test_what_builds_keep_is_closed_to_other_users(shipline: Shipline, tmp_path: Path) -> None:
    """Also where they may enter the directory, and after an earlier version."""
    place = context(tmp_path / "context", "FROM scratch\nCOPY file /\n", file="content")
    shipline.home.mkdir(mode=0o755)
    for _ in range(2):
        shipline.build("-o", "type=cacheonly", place).ok()
        for name in ("content", "toc", "runs", "cache.db"):
            assert (shipline.home / name).stat().st_mode & 0o077 == 0
            (shipline.home / name).chmod(0o755)
