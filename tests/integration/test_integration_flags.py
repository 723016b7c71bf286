"""Flags that change what a build does, seen from what it made."""

from __future__ import annotations

import secrets
import sqlite3
import tarfile
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builds import Done, Shipline, config, context, document, leftovers, manifests
from peers import Docker, Registry, free_port

pytestmark = [pytest.mark.peers, pytest.mark.root]


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address)


def build(shipline: Shipline, tmp_path: Path, dockerfile: str, *words: str | Path) -> Done:
    place = context(tmp_path / "context", dockerfile, file__txt="content\n")
    return shipline.build(*words, "--progress", "plain", place)


def test_dockerfile_comes_from_standard_input(shipline: Shipline, tmp_path: Path) -> None:
    place = context(tmp_path / "context", "not this\n", file__txt="content\n")
    dockerfile = b"FROM scratch\nCOPY file.txt /\n"
    out = tmp_path / "out"
    shipline.build("-f", "-", "-o", out, place, stdin=dockerfile).ok()
    assert (out / "file.txt").read_text() == "content\n"
    shipline.build("-o", out, "-", stdin=b"FROM scratch\nCOPY <<a /b\nc\na\n").ok()
    assert (out / "b").read_text() == "c\n"


STAGES = """
FROM busybox AS one
RUN cat /proc/sys/kernel/random/uuid > /one
FROM busybox AS two
RUN cat /proc/sys/kernel/random/uuid > /two
FROM scratch
COPY --from=one /one /
COPY --from=two /two /
"""


def test_cache_is_left_out_where_asked(shipline: Shipline, tmp_path: Path) -> None:
    def made(*words: str) -> tuple[str, str]:
        out = tmp_path / "out"
        build(shipline, tmp_path, STAGES, "-o", out, *words).ok()
        return (out / "one").read_text(), (out / "two").read_text()

    first = made()
    assert made() == first
    filtered = made("--no-cache-filter", "two")
    assert filtered[0] == first[0]
    assert filtered[1] != first[1]
    fresh = made("--no-cache")
    assert fresh[0] != first[0]
    assert fresh[1] != filtered[1]


def test_target_builds_that_stage_alone(shipline: Shipline, tmp_path: Path) -> None:
    dockerfile = "FROM scratch AS wanted\nCOPY file.txt /\nFROM busybox\nRUN false\n"
    out = tmp_path / "out"
    done = build(shipline, tmp_path, dockerfile, "--target", "wanted", "-o", out).ok()
    assert [path.name for path in out.iterdir()] == ["file.txt"]
    assert "busybox" not in done.err


def test_named_contexts_replace_what_a_name_means(
    shipline: Shipline, base_images: Registry, tmp_path: Path
) -> None:
    more = context(tmp_path / "more", "", other__txt="other\n")
    dockerfile = "FROM base\nCOPY --from=more other.txt /\nRUN cat /other.txt > /copy\n"
    out = tmp_path / "out"
    words = ("--build-context", f"more={more}", "--build-context", "base=docker-image://busybox")
    build(shipline, tmp_path, dockerfile, *words, "-o", out).ok()
    assert (out / "copy").read_text() == "other\n"


def test_arguments_and_labels_reach_the_image(
    shipline: Shipline, base_images: Registry, tmp_path: Path
) -> None:
    dockerfile = "FROM scratch\nARG version=0\nENV VERSION=$version\nCOPY file.txt /\n"
    name = f"{base_images.address}/flags/args"
    words = ("--build-arg", "version=7", "--label", "a=b", "-t", name, "--push")
    build(shipline, tmp_path, dockerfile, *words).ok()
    found = config(base_images, "flags/args", document(base_images, "flags/args", "latest"))
    assert "VERSION=7" in found["config"]["Env"]
    assert found["config"]["Labels"] == {"a": "b"}


def test_network_none_has_loopback_only(shipline: Shipline, tmp_path: Path) -> None:
    dockerfile = "FROM busybox\nRUN cat /proc/net/dev | tail -n +3 | cut -d: -f1 > /devices\n"
    out = tmp_path / "out"
    build(shipline, tmp_path, dockerfile, "--network", "none", "-o", out).ok()
    assert (out / "devices").read_text().split() == ["lo"]
    flagged = dockerfile.replace("RUN", "RUN --network=none")
    build(shipline, tmp_path, flagged, "-o", out).ok()
    assert (out / "devices").read_text().split() == ["lo"]


SECRET = """
FROM busybox
RUN --mount=type=secret,id=token --mount=type=secret,id=word,env=WORD \
    test "$(cat /run/secrets/token)" = "$WORD" && echo used > /used
RUN test ! -e /run/secrets/token && test -z "$WORD"
"""


def test_secret_is_nowhere_afterwards(
    shipline: Shipline, base_images: Registry, tmp_path: Path
) -> None:
    value = f"hush-{secrets.token_hex(12)}"
    file = tmp_path / "secret"
    file.write_text(value)
    words = ["--secret", f"id=token,src={file}", "--secret", "id=word,env=WORD"]
    words += ["-t", f"{base_images.address}/flags/secret", "--push"]
    place = context(tmp_path / "context", SECRET)
    done = shipline.build(*words, place, WORD=value).ok()
    assert value not in done.out + done.err
    assert "used" in "".join(map(str, shipline.home.rglob("used")))
    manifest = document(base_images, "flags/secret", "latest")
    assert value not in str(config(base_images, "flags/secret", manifest))
    assert_nowhere(value, shipline.home, base_images.data)
    again = shipline.build(*words, place, WORD="other").ok()
    assert again.err.count("CACHED") >= 2  # the value is not part of the key


def test_secret_of_a_failed_step_is_nowhere(shipline: Shipline, tmp_path: Path) -> None:
    value = f"hush-{secrets.token_hex(12)}"
    dockerfile = "FROM busybox\nRUN --mount=type=secret,id=word,env=WORD false\n"
    place = context(tmp_path / "context", dockerfile)
    done = shipline.build("--secret", "id=word,env=WORD", place, WORD=value)
    assert value not in done.failed(5)
    assert_nowhere(value, shipline.home)
    missing = dockerfile.replace("env=WORD", "env=WORD,required=true")
    assert "secret word" in build(shipline, tmp_path, missing).failed(4)


def assert_nowhere(value: str, *places: Path) -> None:
    """Neither in a file nor inside a layer nor in the name of a file."""
    for place in places:
        for path in place.rglob("*"):
            assert value not in path.name
            if not path.is_file() or path.is_symlink():
                continue
            content = path.read_bytes()
            assert value.encode() not in content, path
            if content.startswith(b"\x1f\x8b"):
                assert value.encode() not in unpacked(content), path


def unpacked(content: bytes) -> bytes:
    """What gzip members hold; the last may be cut off, as that of a broken upload is."""
    found = b""
    while content:
        member = zlib.decompressobj(wbits=31)
        found += member.decompress(content)
        content = member.unused_data
    return found


CACHES = """
FROM busybox AS {name}
RUN --mount=type=cache,target=/cache,sharing={sharing} touch /cache/{name}; {wait}; \
    ls /cache > /seen; {then}
"""
MEET = "for i in $(seq 1200); do test -e /cache/a -a -e /cache/b && break; sleep 0.05; done"


@pytest.mark.parametrize("sharing", ["shared", "locked", "private"])
def test_cache_mounts_are_shared_as_asked(sharing: str, shipline: Shipline, tmp_path: Path) -> None:
    shared = sharing == "shared"
    wait, then = (MEET, "true") if shared else ("sleep 0.4", "rm /cache/*")
    both = "".join(
        CACHES.format(name=name, sharing=sharing, wait=wait, then=then) for name in ("a", "b")
    )
    dockerfile = f"{both}\nFROM scratch\nCOPY --from=a /seen /a\nCOPY --from=b /seen /b\n"
    out = tmp_path / "out"
    build(shipline, tmp_path, dockerfile, "-o", out).ok()
    seen = {name: (out / name).read_text().split() for name in ("a", "b")}
    assert seen == ({"a": ["a", "b"], "b": ["a", "b"]} if shared else {"a": ["a"], "b": ["b"]})
    assert leftovers(shipline.home) == []


def test_cache_mounts_stay_between_builds_and_out_of_the_image(
    shipline: Shipline, tmp_path: Path
) -> None:
    dockerfile = (
        "FROM busybox\nARG n\n"
        "RUN --mount=type=cache,target=/cache echo $n >> /cache/all; cp /cache/all /all\n"
    )
    out = tmp_path / "out"
    for number in ("1", "2"):
        build(shipline, tmp_path, dockerfile, "--build-arg", f"n={number}", "-o", out).ok()
    assert (out / "all").read_text() == "1\n2\n"
    assert not (out / "cache").exists()


EPOCH = "FROM busybox\nCOPY file.txt /\nRUN echo x > /made && mkdir /d\nWORKDIR /w\nENV A=b\n"


def test_same_epoch_is_the_same_digest_from_two_fresh_homes(
    base_images: Registry, tmp_path: Path
) -> None:
    places = []
    for number in (1, 2):
        shipline = Shipline(tmp_path / f"home{number}", base_images.address)
        place = context(tmp_path / f"context{number}", EPOCH, file__txt="content\n")
        output = f"type=image,name={base_images.address}/flags/epoch:{number},push=true"
        output += ",rewrite-timestamp=true"
        words = ("-o", output, "--platform", "linux/amd64,linux/arm64", place)
        shipline.build(*words, SOURCE_DATE_EPOCH="1700000000").ok()
        index = document(base_images, "flags/epoch", str(number))
        places.append((manifests(base_images, "flags/epoch", str(number)), index))
        time.sleep(1.1)  # times of files are whole seconds
    assert places[0] == places[1]
    manifest = manifests(base_images, "flags/epoch", "1")["amd64"]
    found = config(base_images, "flags/epoch", manifest)
    assert found["created"] == "2023-11-14T22:13:20Z"


def test_the_epoch_of_a_dockerfile_dates_the_image(base_images: Registry, tmp_path: Path) -> None:
    shipline = Shipline(tmp_path / "home", base_images.address)
    name = f"{base_images.address}/flags/default-epoch:1"
    place = context(tmp_path / "context", "ARG SOURCE_DATE_EPOCH=1700000000\nFROM busybox\n")
    for words, created in (
        ((), "2023-11-14T22:13:20Z"),
        (("--build-arg", "SOURCE_DATE_EPOCH=1600000000"), "2020-09-13T12:26:40Z"),
    ):
        shipline.build("--push", "-t", name, *words, place).ok()
        manifest = document(base_images, "flags/default-epoch", "1")
        assert config(base_images, "flags/default-epoch", manifest)["created"] == created
    said = shipline.build("--build-arg", "SOURCE_DATE_EPOCH=context", place).ok().err
    assert "SOURCE_DATE_EPOCH is not set: the context" in said


def test_an_epoch_dates_no_later_image(base_images: Registry, tmp_path: Path) -> None:
    shipline = Shipline(tmp_path / "home", base_images.address)
    place = context(tmp_path / "context", "FROM scratch\nCOPY file /\n", file="f")
    name = f"{base_images.address}/flags/after-epoch:1"
    started = datetime.now(UTC).isoformat()
    shipline.build("--push", "-t", name, place, SOURCE_DATE_EPOCH="1600000000").ok()
    shipline.build("--push", "-t", name, place).ok()
    found = config(
        base_images, "flags/after-epoch", document(base_images, "flags/after-epoch", "1")
    )
    assert started[:19] <= found["created"][:19] == found["history"][0]["created"][:19]


def test_a_build_with_an_epoch_takes_a_cache_that_buildkit_made_with_it(
    docker: Docker, base_images: Registry, tmp_path: Path
) -> None:
    """And none of another epoch: WORKDIR has the epoch in its key."""
    place = context(tmp_path / "context", "FROM busybox\nWORKDIR /a/b\nCOPY file /c/\n", file="f")
    cache = tmp_path / "cache"
    epoch = "--build-arg=SOURCE_DATE_EPOCH=1600000000"
    done = docker.run("buildx", "build", epoch, f"--cache-to=type=local,dest={cache}", place)
    assert done.returncode == 0, done.stdout
    for seconds, taken in (("1600000000", 3), ("1600000001", 0)):
        shipline = Shipline(tmp_path / f"home{seconds}", base_images.address)
        words = ("--progress=plain", f"--cache-from=type=local,src={cache}", place)
        said = shipline.build(*words, SOURCE_DATE_EPOCH=seconds).ok().err
        assert said.count("CACHED") == taken, said


def test_rewritten_timestamps_are_not_after_the_epoch(shipline: Shipline, tmp_path: Path) -> None:
    file = tmp_path / "out.tar"
    place = context(tmp_path / "context", EPOCH, file__txt="content\n")
    output = f"type=oci,dest={file},rewrite-timestamp=true"
    shipline.build("-o", output, place, SOURCE_DATE_EPOCH="1000000000").ok()
    with tarfile.open(file) as outer:
        layers = [one for one in outer if one.isfile() and one.name.startswith("blobs/")]
        checked = 0
        for member in layers:
            content = outer.extractfile(member)
            assert content is not None
            try:
                with tarfile.open(fileobj=content) as layer:
                    names = {entry.name: entry.mtime for entry in layer}
            except tarfile.ReadError:
                continue  # a document
            if not any(name.startswith("bin") for name in names):
                assert all(mtime <= 1000000000 for mtime in names.values()), names
                checked += 1
    assert checked == 3


def test_two_builds_at_once_with_one_home_are_both_right(
    shipline: Shipline, tmp_path: Path
) -> None:
    dockerfile = "FROM busybox\nRUN echo once > /made; sleep 0.3\nCOPY file.txt /\n"
    place = context(tmp_path / "context", dockerfile, file__txt="content\n")
    running = [shipline.start("-o", tmp_path / f"out{n}", place) for n in range(3)]
    for number, process in enumerate(running):
        with process:
            _, err = process.communicate(b"", 60)
        assert process.returncode == 0, err
        out = tmp_path / f"out{number}"
        assert (out / "made").read_text() == "once\n"
        assert (out / "file.txt").read_text() == "content\n"
    assert leftovers(shipline.home) == []
    with sqlite3.connect(shipline.home / "cache.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_cannot_be_pushed_ends_the_build_before_its_steps_end(
    base_images: Registry, tmp_path: Path
) -> None:
    shipline = Shipline(tmp_path / "home", base_images.address)
    place = context(tmp_path / "context", "FROM busybox\nRUN --network=none sleep 100\n")
    started = time.monotonic()
    address = f"127.0.0.1:{free_port()}"
    said = shipline.build("--push", "-t", f"{address}/flags/unreached:1", place).failed(6)
    assert f"{address}: connection refused" in said
    assert time.monotonic() - started < 60
