"""`shipline copy` between registries, layouts and archives, beside skopeo, oras and cosign."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builds import document, get, tags
from commands import run, run_shipline
from layouts import write_layout
from nodes import node
from peers import Registry, docker_registry
from proxy import FaultProxy, Stall
from shipline.content import MemoryStore, OciLayout, fetch_all
from shipline.oci import Descriptor, Digest, Index, Manifest, Platform, media, parse_manifest
from shipline.units import shown_size
from shipline.values import replace

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Another registry."""
    with docker_registry(tmp_path_factory.mktemp("other")) as running:
        yield running


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An index for two platforms with a statement about it, under the tag v1."""
    place = tmp_path / "layout"
    parts = [
        write_layout(tmp_path / name, "v1", [name.encode() * 50_000]) for name in ("one", "two")
    ]
    target = OciLayout(place, create=True)
    children = []
    for part, platform in zip(parts, ("linux/amd64", "linux/arm64"), strict=True):
        source = OciLayout(part)
        manifest = source.resolve("v1")
        for file in (part / "blobs/sha256").iterdir():
            shutil.copy(file, place / "blobs/sha256")
        children.append(replace(manifest, platform=Platform.parse(platform)))
    index = Index.make(children)
    target.tag(index.descriptor, MemoryStore(index.raw), "v1")
    empty = b"{}"
    about = Manifest.make(
        Descriptor.of(empty, media.OCI_EMPTY),
        [Descriptor.of(empty, media.OCI_EMPTY)],
        subject=index.descriptor,
        artifact_type="application/example",
    )
    store = MemoryStore(empty, about.raw)
    target.push(about.config, store)
    target.push(about.descriptor, store)
    return place


def copy(
    *words: str | Path, registries: tuple[Registry, ...] = (), status: int = 0
) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "SHIPLINE_INSECURE": ",".join(one.address for one in registries)}
    done = run_shipline("copy", *words, environ=environ)
    assert done.returncode == status, done.stderr
    return done


def listed(store: OciLayout, target: Descriptor) -> tuple[Descriptor, ...]:
    index = parse_manifest(fetch_all(store, target, 1 << 20))
    assert isinstance(index, Index)
    return index.manifests


def skopeo(*words: str) -> str:
    command = ["skopeo", "--insecure-policy", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_of_an_image_comes_back_byte_for_byte(
    layout: Path, registry: Registry, other: Registry, tmp_path: Path
) -> None:
    both = (registry, other)
    first, second = f"{registry.address}/copy/a:v1", f"docker://{other.address}/copy/b:v2"
    copy(f"oci:{layout}:v1", first, registries=both)
    copy(first, second, registries=both)
    copy(second, f"oci-archive:{tmp_path}/a.tar:v3", registries=both)
    copy(f"oci-archive:{tmp_path}/a.tar", f"oci:{tmp_path}/back", registries=both)
    before, after = OciLayout(layout), OciLayout(tmp_path / "back")
    root = before.resolve("v1")
    assert after.resolve("latest") == root
    for one in before.index().manifests:
        assert after.exists(one), one
    (about,) = after.referrers(root)
    assert about == before.referrers(root)[0] and about.artifact_type == "application/example"
    assert f"sha256-{root.digest.hex}" in tags(other, "copy/b")  # it has no referrers API


def test_what_is_there_is_not_sent_again(layout: Path, registry: Registry) -> None:
    name = f"{registry.address}/copy/again"
    done = copy(f"oci:{layout}:v1", f"{name}:v1", registries=(registry,))
    assert "DONE" in done.stderr
    assert "CACHED" in copy(f"oci:{layout}:v1", f"{name}:v1", registries=(registry,)).stderr
    shown = copy("--dry-run", f"oci:{layout}:v1", f"{name}:v2", registries=(registry,)).stdout
    assert "0 B in 0 objects" in shown
    copy("--force", f"oci:{layout}:v1", f"{name}:v1", registries=(registry,))


def bytes_moved(rawjson: str) -> int:
    lines = map(json.loads, rawjson.splitlines())
    return max((one["current"] for line in lines for one in line.get("statuses", [])), default=0)


def test_a_dry_run_counts_the_bytes_that_the_copy_moves(
    layout: Path, registry: Registry, other: Registry, tmp_path: Path
) -> None:
    at, there = f"{registry.address}/copy/dry", f"{other.address}/copy/dry"
    source, registries = f"oci:{layout}:v1", (registry, other)
    for first, second in (
        (source, f"{at}:v1"),
        (f"{at}:v1", f"{there}:v1"),
        (f"{at}:v1", f"{at}-mounted:v1"),
        (f"{at}:v1", f"oci:{tmp_path}/out:v1"),
        (source, f"oci-archive:{tmp_path}/out.tar:v1"),
        (source, f"{at}:v2"),
        (source, f"{at}:v1"),
    ):
        shown = copy("--dry-run", first, second, registries=registries).stdout
        done = copy(first, second, "--progress=rawjson", registries=registries)
        moved = shown_size(bytes_moved(done.stderr))
        assert f"  {moved} in " in shown or (shown.endswith("  unchanged\n") and moved == "0 B")


def test_an_archive_that_is_there_is_replaced_by_force_alone(layout: Path, tmp_path: Path) -> None:
    for name in ("oci-archive:a.tar:v1", "docker-archive:d.tar:app:1"):
        kind, file, tag = name.split(":", 2)
        path = tmp_path / file
        words = ("--platform=linux/arm64", f"oci:{layout}:v1", f"{kind}:{path}:{tag}")
        copy(*words)
        before = path.stat().st_ino
        assert "--force" in copy(*words, status=2).stderr and path.stat().st_ino == before
        copy("--force", *words)
        assert path.stat().st_ino != before


@pytest.mark.parametrize(
    "line", ["a", "a b c", "a b.example/UPPER:1", f"a b:1@sha256:{'0' * 64}", "oci: b"]
)
def test_a_wrong_line_of_a_list_is_named_before_anything_is_copied(
    line: str, layout: Path, tmp_path: Path
) -> None:
    file = tmp_path / "list"
    file.write_text(f"# two\noci:{layout}:v1 oci:{tmp_path}/out:v1\n\n{line}\n")
    assert f"{file}:4: " in copy("--from-file", file, status=2).stderr
    assert not (tmp_path / "out").exists()


def test_blobs_are_mounted_within_a_registry(layout: Path, registry: Registry) -> None:
    source, target = (f"{registry.address}/copy/mount-{name}:v1" for name in "ab")
    copy(f"oci:{layout}:v1", source, registries=(registry,))
    uploads = registry.data / "docker/registry/v2/repositories/copy/mount-b/_uploads"
    done = copy(source, target, "--progress=rawjson", registries=(registry,))
    assert bytes_moved(done.stderr) < 10_000  # manifests alone
    assert not list(uploads.glob("*")) if uploads.exists() else True


def test_a_list_is_copied_although_one_of_it_fails(
    layout: Path, registry: Registry, tmp_path: Path
) -> None:
    name = f"{registry.address}/copy/list"
    lines = [f"oci:{layout}:v1 {name}:v{number}  # comment" for number in range(5)]
    file, digests = tmp_path / "list", tmp_path / "digests"
    file.write_text("\n".join(["# pairs", *lines, "", f"{name}:missing {name}:never"]))
    done = copy("--from-file", file, "--digestfile", digests, registries=(registry,), status=8)
    assert sorted(tags(registry, "copy/list"))[-5:] == [f"v{number}" for number in range(5)]
    assert "missing" in done.stderr and "Traceback" not in done.stderr
    assert digests.read_text().split() == [str(OciLayout(layout).resolve("v1").digest)] * 5


def test_some_platforms_are_another_index(layout: Path, registry: Registry) -> None:
    name = f"{registry.address}/copy/some"
    copy("--platform=linux/arm64", f"oci:{layout}:v1", f"{name}:v1", registries=(registry,))
    (kept,) = document(registry, "copy/some", "v1")["manifests"]
    assert kept["platform"]["architecture"] == "arm64"
    done = copy("--platform=linux/s390x", f"oci:{layout}:v1", f"{name}:v2", status=8)
    assert "no image for linux/s390x" in done.stderr


def test_an_image_is_copied_to_its_digest_without_a_tag(layout: Path, registry: Registry) -> None:
    name = f"{registry.address}/copy/untagged"
    root = OciLayout(layout).resolve("v1")
    registries = (registry,)
    lines = copy("--dry-run", f"oci:{layout}:v1", f"{name}@{root.digest}", registries=registries)
    assert lines.stdout.rstrip().endswith("objects")
    for flags in ((), ("--force",)):
        done = copy(*flags, f"oci:{layout}:v1", f"{name}@{root.digest}", registries=registries)
        assert done.stdout == f"{name}@{root.digest}\n"
    lines = copy("--dry-run", f"oci:{layout}:v1", f"{name}@{root.digest}", registries=registries)
    assert lines.stdout.rstrip().endswith("unchanged")
    assert skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{name}@{root.digest}")
    assert tags(registry, "copy/untagged") == [f"sha256-{root.digest.hex}"]  # its referrers
    other = f"{name}@sha256:{'f' * 64}"
    done = copy(f"oci:{layout}:v1", other, registries=registries, status=2)
    assert f"the image to copy is {root.digest}" in done.stderr


def test_skopeo_reads_what_is_written_and_writes_what_is_read(
    layout: Path, registry: Registry, tmp_path: Path
) -> None:
    archive, docker = tmp_path / "a.tar", tmp_path / "d.tar"
    copy(f"oci:{layout}:v1", f"oci-archive:{archive}:v1")
    copy(f"oci:{layout}:v1", f"docker-archive:{docker}:team/app:1", "--platform=linux/arm64")
    digest = str(OciLayout(layout).resolve("v1").digest)
    assert json.loads(skopeo("inspect", "--raw", f"oci-archive:{archive}:v1"))["manifests"]
    config = json.loads(skopeo("inspect", "--config", f"docker-archive:{docker}:team/app:1"))
    theirs, legacy = tmp_path / "theirs.tar", tmp_path / "legacy.tar"
    skopeo("copy", "--all", "--preserve-digests", f"oci:{layout}:v1", f"oci-archive:{theirs}:v9")
    skopeo("copy", f"docker-archive:{docker}:team/app:1", f"docker-archive:{legacy}:team/app:1")
    with tarfile.open(legacy) as tar, gzip.open(f"{legacy}.gz", "wb") as file:
        assert any("layer.tar" in name or name.endswith(".tar") for name in tar.getnames())
        file.write(legacy.read_bytes())
    name = f"{registry.address}/copy/skopeo"
    done = copy(f"oci-archive:{theirs}:v9", f"{name}:oci", registries=(registry,))
    assert digest in done.stdout
    for number, source in enumerate((legacy, f"{legacy}.gz")):
        copy(f"docker-archive:{source}", f"{name}:v{number}", registries=(registry,))
        manifest = document(registry, "copy/skopeo", f"v{number}")
        assert [media.compression(one["mediaType"]) for one in manifest["layers"]] == ["gzip"]
        _, raw = get(registry, f"/v2/copy/skopeo/blobs/{manifest['config']['digest']}")
        assert json.loads(raw)["rootfs"] == config["rootfs"]


def test_signatures_of_cosign_verify_at_the_destination(
    layout: Path, registry: Registry, other: Registry, tmp_path: Path
) -> None:
    both = (registry, other)
    source, target = (f"{one.address}/copy/signed" for one in both)
    copy(f"oci:{layout}:v1", f"{source}:v1", registries=both)
    digest = OciLayout(layout).resolve("v1").digest
    environ = {**os.environ, "COSIGN_PASSWORD": ""}

    def cosign(*words: str) -> None:
        done = run("cosign", *words, environ=environ, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    cosign("generate-key-pair")
    cosign("sign", "--key=cosign.key", "--tlog-upload=false", "-y", f"{source}@{digest}")
    copy(f"{source}:v1", f"{target}:v1", registries=both)
    verify = ("verify", "--key=cosign.pub", "--insecure-ignore-tlog=true")
    cosign(*verify, f"{target}@{digest}")
    copy("--no-referrers", f"{source}:v1", f"{target}-bare:v1", registries=both)
    assert tags(other, "copy/signed-bare") == ["v1"]


def test_a_damaged_neighbour_in_a_layout_is_no_obstacle(layout: Path, tmp_path: Path) -> None:
    source = OciLayout(layout)
    wrong = Index.make([]).descriptor
    source.tag(wrong, MemoryStore(Index.make([]).raw), "wrong")
    source.path(wrong.digest).write_bytes(b"{")
    copy(f"oci:{layout}:v1", f"oci:{tmp_path}/out:v1")
    assert len(OciLayout(tmp_path / "out").referrers(source.resolve("v1"))) == 1
    assert "it has v1, wrong" in copy(f"oci:{layout}:no", f"oci:{tmp_path}/o", status=8).stderr


def test_layers_that_are_elsewhere_are_left_out(
    layout: Path, registry: Registry, tmp_path: Path
) -> None:
    source = OciLayout(layout)
    image = listed(source, source.resolve("v1"))[0]
    before = parse_manifest(fetch_all(source, image, 1 << 20))
    assert isinstance(before, Manifest)
    kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    foreign = Descriptor(kind, Digest.of(b"x"), 1, urls=("https://layers.example/x",))
    made = Manifest.make(before.config, [*before.layers, foreign], media_type=media.DOCKER_MANIFEST)
    source.tag(made.descriptor, MemoryStore(made.raw), "foreign")
    with node(tmp_path / "node") as ours:
        name = f"{ours.address}/copy/foreign:1"
        environ = {**os.environ, "SHIPLINE_INSECURE": ours.address}
        archive = f"oci-archive:{tmp_path}/a.tar:1"
        for words in ((f"oci:{layout}:foreign", name), (name, archive)):
            done = run_shipline("copy", *words, environ=environ)
            assert done.returncode == 0, done.stderr
    copy(archive, f"oci:{tmp_path}/back:1")
    assert OciLayout(tmp_path / "back").resolve("1").digest == made.descriptor.digest
    refused = copy(f"oci:{layout}:foreign", f"docker-archive:{tmp_path}/d.tar:a:1", status=8)
    assert "https://layers.example/x" in refused.stderr and not (tmp_path / "d.tar").exists()


def test_platforms_are_those_of_inner_indexes_and_single_images_too(
    layout: Path, tmp_path: Path
) -> None:
    source = OciLayout(layout)
    outer = Index.make([source.resolve("v1")])
    source.tag(outer.descriptor, MemoryStore(outer.raw), "outer")
    copy("--platform=linux/arm64", f"oci:{layout}:outer", f"oci:{tmp_path}/out:1")
    out = OciLayout(tmp_path / "out")
    (inner,) = listed(out, out.resolve("1"))
    (kept,) = listed(out, inner)
    assert str(kept.platform) == "linux/arm64"
    single = write_layout(tmp_path / "single", "v1")
    for words in (
        ("copy", f"oci:{single}:v1", f"oci:{tmp_path}/never"),
        ("digest", f"oci:{single}:v1"),
        ("digest", f"oci:{layout}:outer"),
    ):
        done = run_shipline(*words, "--platform=linux/s390x")
        assert done.returncode == 8 and "it has linux/amd64" in done.stderr, done.stderr


def test_a_damaged_manifest_in_a_layout_is_written_again(layout: Path, tmp_path: Path) -> None:
    target = f"oci:{tmp_path}/out:v1"
    copy(f"oci:{layout}:v1", target)
    out = OciLayout(tmp_path / "out")
    path = out.path(out.resolve("v1").digest)
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content.replace(b"amd64", b"amd46"))
    copy("--force", f"oci:{layout}:v1", target)
    assert path.read_bytes() == content


def test_two_images_for_one_archive_are_refused(layout: Path, tmp_path: Path) -> None:
    archive, file = tmp_path / "a.tar", tmp_path / "list"
    file.write_text(f"oci:{layout}:v1 oci-archive:{archive}:{{}}\n".format("a") * 2)
    assert "written twice" in copy("--from-file", file, status=2).stderr
    assert not archive.exists()


def test_two_images_for_one_tag_are_refused(layout: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "list", tmp_path / "out"
    lines = [f"oci:{layout}:{name} oci:{out}:v1\n" for name in ("v1", "v1", "other")]
    file.write_text("".join(lines))
    assert "would get two images" in copy("--from-file", file, status=2).stderr
    assert not out.exists()
    file.write_text("".join(lines[:2]))
    copy("--from-file", file)


def test_our_registry_gives_back_what_it_was_given(
    layout: Path, registry: Registry, tmp_path: Path
) -> None:
    with node(tmp_path / "node") as ours:
        name, back = f"{ours.address}/copy/ours:v1", f"{registry.address}/copy/back:v1"
        environ = {**os.environ, "SHIPLINE_INSECURE": f"{ours.address},{registry.address}"}
        for words in ((f"oci:{layout}:v1", name), (name, back), (back, f"oci:{tmp_path}/out:v1")):
            done = run_shipline("copy", *words, environ=environ)
            assert done.returncode == 0, done.stderr
    out, source = OciLayout(tmp_path / "out"), OciLayout(layout)
    root = source.resolve("v1")
    assert out.resolve("v1") == root and out.referrers(root) == source.referrers(root)


def test_a_copy_that_was_killed_sends_the_rest_alone(
    registry: Registry, other: Registry, tmp_path: Path
) -> None:
    contents = [bytes([number]) * 40_000 for number in range(5)] + [os.urandom(4 << 20)]
    layout = write_layout(tmp_path / "layout", "v1", contents)
    sizes = {file.name: file.stat().st_size for file in (layout / "blobs/sha256").iterdir()}
    largest = max(sizes, key=lambda name: sizes[name])
    copy(f"oci:{layout}:v1", f"{registry.address}/copy/killed:v1", registries=(registry,))
    with FaultProxy(registry.port) as source, FaultProxy(other.port) as target:
        words = [f"127.0.0.1:{one.port}/copy/killed:v1" for one in (source, target)]
        hosts = f"127.0.0.1:{source.port},127.0.0.1:{target.port}"
        environ = {**os.environ, "SHIPLINE_INSECURE": hosts}
        source.break_next(Stall(after=1 << 20), method="GET", target=largest)
        command = [sys.executable, "-m", "shipline", "copy", *words]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, env=environ, stdout=quiet, stderr=quiet) as process:
            store = other.data / "docker/registry/v2/repositories/copy/killed/_layers/sha256"
            try:
                _until(lambda: store.is_dir() and len(list(store.glob("*/link"))) == len(sizes) - 2)
                _until(lambda: bool(source.seen("GET", largest)))
            finally:
                process.kill()
        arrived = {link.parent.name for link in store.glob("*/link")}
        assert largest not in arrived and len(arrived) == len(sizes) - 2  # not the manifest
        before = source.downloaded, target.uploaded
        source.requests.clear()
        target.requests.clear()
        done = run_shipline("copy", *words, environ=environ)
        assert done.returncode == 0, done.stderr
        moved = source.downloaded - before[0], target.uploaded - before[1]
        assert all(sizes[largest] <= one < sizes[largest] + 40_000 for one in moved), moved
        assert not any(source.seen("GET", f"blobs/sha256:{name}") for name in arrived)
    assert tags(other, "copy/killed") == ["v1"]


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.02)


def test_a_neighbour_that_cannot_be_read_holds_up_no_image(layout: Path, tmp_path: Path) -> None:
    document = json.loads((layout / "index.json").read_text())
    bad = b'{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":-1}}'
    entry = Descriptor.of(bad, media.OCI_MANIFEST)
    (layout / "blobs/sha256" / entry.digest.hex).write_bytes(bad)
    gone = Descriptor.of(b"gone", media.OCI_MANIFEST)
    document["manifests"] += [entry.to_json(), gone.to_json()]
    (layout / "index.json").write_text(json.dumps(document))
    done = copy("--quiet", f"oci:{layout}:v1", f"oci:{tmp_path}/to:v1")
    assert f"{entry.digest} in index.json is left out" in done.stderr
    assert done.stderr.count("is left out") == 2  # once for each
    root = OciLayout(layout).resolve("v1")
    assert len(OciLayout(tmp_path / "to").referrers(root)) == 1


def test_what_docker_cannot_load_is_no_docker_archive(layout: Path, tmp_path: Path) -> None:
    (about,) = OciLayout(layout).referrers(OciLayout(layout).resolve("v1"))
    refused = copy(f"oci:{layout}@{about.digest}", f"docker-archive:{tmp_path}/d.tar", status=8)
    assert "not an image that docker can load" in refused.stderr


def test_force_replaces_damaged_files_of_a_layout(layout: Path, tmp_path: Path) -> None:
    words = ("--quiet", f"oci:{layout}:v1", f"oci:{tmp_path}/to:v1")
    copy(*words)
    for file in (tmp_path / "to/blobs/sha256").iterdir():
        data = file.read_bytes()
        file.chmod(0o644)
        file.write_bytes(b"?" * len(data))
    copy("--force", *words)
    for file in (tmp_path / "to/blobs/sha256").iterdir():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == file.name


@pytest.mark.parametrize("place", ["/proc/x", "a-file", "read-only", "x" * 300])
def test_a_layout_that_cannot_be_written_is_an_error_of_its_own_copy(
    place: str, layout: Path, tmp_path: Path
) -> None:
    (tmp_path / "a-file").touch()
    OciLayout(tmp_path / "read-only", create=True)
    (tmp_path / "read-only/index.json").mkdir()  # also root cannot write it
    pairs = tmp_path / "pairs"
    bad, good = (f"oci:{tmp_path / one}:v1" for one in (place, "good"))
    pairs.write_text(f"oci:{layout}:v1 {bad}\noci:{layout}:v1 {good}\n")
    done = copy("--quiet", "-f", pairs, status=8)
    assert "cannot use the image layout" in done.stderr and "Traceback" not in done.stderr
    assert OciLayout(tmp_path / "good").resolve("v1")
    if len(place) == 300:
        done = copy("--dry-run", f"oci:{layout}:v1", bad, status=8)
        assert "cannot use the image layout" in done.stderr and "Traceback" not in done.stderr


def test_a_wrong_name_in_a_list_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("\n".join(["app:1 other.example/app:1", "app:1 foo:bar:baz"]), "utf-8-sig")
    assert f"{file}:2: " in copy("--from-file", file, status=2).stderr


def test_what_is_gone_below_a_tag_is_copied_again(
    layout: Path, registry: Registry, tmp_path: Path
) -> None:
    name, place = f"{registry.address}/copy/gone", tmp_path / "to"
    words = [("--quiet", f"oci:{layout}:v1", to) for to in (f"{name}:v1", f"oci:{place}:v1")]
    for one in words:
        copy(*one, registries=(registry,))
    source = OciLayout(layout)
    child = listed(source, source.resolve("v1"))[1]
    environ = {**os.environ, "SHIPLINE_INSECURE": registry.address}
    done = run_shipline("delete", "--force", f"{name}@{child.digest}", environ=environ)
    assert done.returncode == 0, done.stderr
    manifest = parse_manifest(fetch_all(source, child, 1 << 20))
    assert isinstance(manifest, Manifest)
    layer = OciLayout(place).path(manifest.layers[0].digest)
    layer.unlink()
    for one in words:
        copy(*one, registries=(registry,))
    assert layer.exists()
    copy("--quiet", f"{name}@{child.digest}", f"oci:{tmp_path}/child", registries=(registry,))


def test_the_names_in_archives_are_listed(layout: Path, tmp_path: Path) -> None:
    docker = f"docker-archive:{tmp_path}/d.tar"
    copy(f"oci:{layout}:v1", f"{docker}:app:1", "--platform=linux/amd64")
    copy(f"oci:{layout}:v1", f"oci-archive:{tmp_path}/a.tar:v1")
    for name, found in ((docker, "docker.io/library/app:1"), ("oci-archive:a.tar", "v1")):
        done = run_shipline("ls", name, cwd=tmp_path)
        assert done.stdout.split() == [found], done.stderr
