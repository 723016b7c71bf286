"""What is built does not depend on what was built before, nor on what is built beside it."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from builds import PLATFORMS, TIMEOUT_S, Shipline, context
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


def test_equal_builds_at_once_are_one_work(
    tmp_path: Path, base_images: Registry, source: Path
) -> None:
    """The second waits for the layers of the first, which it would make with another content."""
    dockerfile = "FROM busybox\nRUN head -c 16 /dev/urandom > /noise; sleep 1; echo ran >&2\n"
    (source / "Dockerfile").write_text(dockerfile + "COPY rootfs /rootfs\nRUN date +%N > /now\n")
    shipline = Shipline(tmp_path / "home", base_images.address)
    outs = [tmp_path / f"{number}.tar" for number in range(3)]
    plain = ("--progress", "plain")
    started = [shipline.start(*plain, "-o", f"type=oci,dest={out}", source) for out in outs]
    said = [one.communicate(timeout=TIMEOUT_S)[1].decode() for one in started]
    assert [one.returncode for one in started] == [0, 0, 0], said
    assert len({digest(out) for out in outs}) == 1
    assert sum(text.count(" ran\n") for text in said) == 1, said


def digest(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        index = tar.extractfile("index.json")
        assert index is not None
        return str(json.loads(index.read())["manifests"][0]["digest"])


def test_a_build_whose_equal_died_does_the_work_itself(
    tmp_path: Path, base_images: Registry, source: Path
) -> None:
    (source / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 3\n")
    shipline = Shipline(tmp_path / "home", base_images.address)
    first = shipline.start("--progress", "plain", source)
    assert first.stderr is not None
    assert any(b"begun" in line for line in first.stderr)
    second = shipline.start(source)
    first.kill()
    first.communicate()
    _, said = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 0, said


CACHED = "RUN --mount=type=cache,target=/c{options} echo {word} >> /c/log; cat /c/log > /log\n"


def cached(
    shipline: Shipline, source: Path, word: str, *flags: str, options: str = ""
) -> list[str]:
    """The words that a cache mount has seen, this one at last."""
    (source / "Dockerfile").write_text("FROM busybox\n" + CACHED.format(word=word, options=options))
    out = source.with_name("log.tar")
    shipline.build(*flags, "-o", f"type=tar,dest={out}", source).ok()
    with tarfile.open(out) as archive:
        return _content(archive, archive.getmember("log")).decode().split()


def test_a_build_without_cache_begins_cache_mounts_anew(
    tmp_path: Path, base_images: Registry, source: Path
) -> None:
    shipline = Shipline(tmp_path / "home", base_images.address)
    assert cached(shipline, source, "one") == ["one"]
    assert cached(shipline, source, "two") == ["one", "two"]
    assert cached(shipline, source, "three", "--no-cache") == ["three"]
    assert cached(shipline, source, "four") == ["three", "four"]
    namespace = ("--build-arg", "BUILDKIT_CACHE_MOUNT_NS=mine")
    assert cached(shipline, source, "five", *namespace) == ["five"]
    assert cached(shipline, source, "six", options=",uid=5") == ["six"]
    assert cached(shipline, source, "seven") == ["three", "four", "seven"]


def test_two_platforms_begin_a_cache_mount_at_once(
    tmp_path: Path, base_images: Registry, source: Path
) -> None:
    """And two mounts of one cache in a step are one, also where they lock it."""
    options = "type=cache,id=one,from=alpine,source=/bin,sharing=locked"
    (source / "Dockerfile").write_text(
        f"FROM busybox\nRUN --mount={options},target=/a --mount={options},target=/b"
        " touch /a/new && test -e /b/new && test -e /a/busybox\n"
        "RUN --mount=type=cache,target=/c,uid=7 touch /c/$(uname -m)\n"
    )
    for number in range(3):
        shipline = Shipline(tmp_path / f"home-{number}", base_images.address)
        shipline.build("--platform", PLATFORMS, "-o", "type=cacheonly", source).ok()


def test_another_read_only_file_system_with_the_same_stats_is_read(
    tmp_path: Path, base_images: Registry, source: Path
) -> None:
    """Inodes, sizes and all times of the two are equal; no fingerprint tells them apart."""
    shipline = Shipline(tmp_path / "home", base_images.address)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    seen = []
    for text in ("before\n", "after.\n"):
        (source / "file").write_text(text)
        image = tmp_path / "context.erofs"
        image.unlink(missing_ok=True)
        make = ["mkfs.erofs", "-T", "1600000000", "--quiet", str(image), str(source)]
        subprocess.run(make, check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop,ro", str(image), str(mounted)], check=True)
        try:
            out = tmp_path / "out.tar"
            words = ("-f", "-", "-o", f"type=tar,dest={out}", mounted)
            done = shipline.build(*words, stdin=b"FROM scratch\nCOPY file /\n")
            assert done.status == 0, done.err
            with tarfile.open(out) as archive:
                seen.append(_content(archive, archive.getmember("file")))
        finally:
            subprocess.run(["umount", str(mounted)], check=True)
    assert seen == [b"before\n", b"after.\n"]
