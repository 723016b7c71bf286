"""What cannot be built ends in one message, the right status, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from builds import PLATFORMS, Shipline, command, context, leftovers, tags
from peers import Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address)


class Refusal:
    """Builds that must fail: each is pushed, so that a name would be seen."""

    def __init__(self, shipline: Shipline, registry: Registry, place: Path) -> None:
        self.shipline = shipline
        self.registry = registry
        self.place = place

    def of(self, status: int, *words: str | Path, stdin: bytes = b"") -> str:
        """The message of `shipline build WORDS --push`, which left nothing."""
        name = f"{self.registry.address}/bad/input:1"
        flags = () if "-o" in words else ("--push", "-t", name)
        done = self.shipline.build(*flags, *words, stdin=stdin)
        said = done.failed(status)
        assert tags(self.registry, "bad/input") == []
        assert leftovers(self.shipline.home) == []
        messages = [line for line in said.splitlines() if line.startswith(("error", "╭", "+-"))]
        assert len(messages) == 1, said
        return said

    def dockerfile(self, status: int, text: str, *words: str | Path, **files: str) -> str:
        return self.of(status, *words, context(self.place, text, **files))


@pytest.fixture
def refusal(shipline: Shipline, base_images: Registry, tmp_path: Path) -> Refusal:
    return Refusal(shipline, base_images, tmp_path / "context")


def test_missing_dockerfile_is_named(refusal: Refusal, tmp_path: Path) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    assert f"{place}/Dockerfile" in refusal.of(2, place)
    assert "other" in refusal.of(2, "-f", place / "other", place)
    assert "nowhere" in refusal.of(2, tmp_path / "nowhere")


def test_wrong_syntax_shows_its_line(refusal: Refusal) -> None:
    said = refusal.dockerfile(4, "FROM busybox\n\nRUNN make it\n")
    assert "Dockerfile:3" in said
    assert ">>> 3 | RUNN make it" in said
    assert "did you mean" in said
    assert "Dockerfile:2" in refusal.dockerfile(4, "FROM busybox\nCOPY x\n")
    assert "starts with FROM" in refusal.dockerfile(4, "# nothing\n")


def test_unknown_stage_is_named(refusal: Refusal) -> None:
    assert "bulder" in refusal.dockerfile(4, "FROM scratch\n", "--target", "bulder")
    image = f"{refusal.registry.address}/bulder"
    said = refusal.dockerfile(8, f"FROM busybox AS builder\nCOPY --from={image} /x /\n")
    assert "bulder" in said
    assert "Dockerfile:2" in said


def test_copy_source_must_exist_inside_the_context(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    said = refusal.dockerfile(4, "FROM scratch\nCOPY missing.txt /\n", other__txt="")
    assert "missing.txt" in said
    assert "Dockerfile:2" in said
    assert "outside" in refusal.dockerfile(4, "FROM scratch\nCOPY ../outside /\n")
    (tmp_path / "context" / "link").symlink_to("../outside")
    refusal.dockerfile(4, "FROM scratch\nCOPY link/ /x\n")
    said = refusal.dockerfile(4, "FROM busybox\nCOPY --from=0 /bin /\nCOPY a* /\n")
    assert "Dockerfile" in said


def test_ignored_source_says_that_it_is_ignored(refusal: Refusal) -> None:
    place = context(refusal.place, "FROM scratch\nCOPY a.txt /\n", a__txt="")
    (place / ".dockerignore").write_text("*.txt\n")
    assert "dockerignore" in refusal.of(4, place)


def test_base_image_must_exist(refusal: Refusal) -> None:
    image = f"{refusal.registry.address}/nothing/here:2"
    said = refusal.dockerfile(8, f"FROM scratch\nFROM {image}\nRUN true\n")
    assert "nothing/here:2" in said
    assert "Dockerfile:2" in said


def test_platform_that_the_base_lacks_lists_those_it_has(refusal: Refusal) -> None:
    said = refusal.dockerfile(8, "FROM busybox\nRUN true\n", "--platform", "linux/s390x")
    assert "linux/s390x" in said
    assert "linux/amd64, linux/arm64" in said


def test_failing_step_ends_in_a_box(refusal: Refusal) -> None:
    script = "RUN for n in $(seq 50); do echo line $n; done; exit 42"
    dockerfile = f"FROM busybox\nARG TARGETARCH\nRUN test $TARGETARCH = amd64 || exit 0\n{script}\n"
    said = refusal.dockerfile(5, dockerfile, "--platform", "linux/amd64")
    box = said[said.index("step failed") :]
    assert "linux/amd64" in box
    assert "Dockerfile:4" in box
    assert "exit code: 42" in box
    assert "line 50" in box
    assert "line 31" in box
    assert "line 30 " not in box


def test_step_that_fails_for_one_platform_stops_the_others(refusal: Refusal) -> None:
    dockerfile = (
        "FROM busybox\nARG TARGETARCH\n"
        "RUN if [ $TARGETARCH = arm64 ]; then exit 7; fi; sleep 31415\n"
    )
    said = refusal.dockerfile(5, dockerfile, "--platform", PLATFORMS)
    assert "step failed on linux/arm64" in said
    assert "exit code: 7" in said


@pytest.mark.parametrize(
    ("run", "hint"),
    [
        ("apt-get update", "apt-get is not in the image: install it in an earlier step"),
        ("true && nonsense --x", "nonsense is not in the image"),
        ("['echo', 'hi']", "a JSON array needs double quotes"),
        (r"printf '#!/bin/nope\n' > /s; chmod 755 /s; /s", "the program in its first line (#!)"),
        (
            r"printf '#!/bin/nope\n' > /s; chmod 755 /s" + '\nRUN ["/s"]',
            "the program in its first line (#!)",
        ),
    ],
)
def test_command_that_the_image_lacks_is_named(refusal: Refusal, run: str, hint: str) -> None:
    assert hint in refusal.dockerfile(5, f"FROM busybox\nRUN {run}\n")


@pytest.mark.parametrize(
    ("network", "hint"),
    [
        ("none", "the step has no network: RUN --network=none"),
        ("host", "the step has this machine's network"),
        ("default", "needs --network host"),
    ],
)
def test_step_that_resolves_no_name_is_told_which_network_it_has(
    refusal: Refusal, network: str, hint: str
) -> None:
    dockerfile = f"FROM busybox\nRUN --network={network} wget -q http://none.invalid/\n"
    assert hint in refusal.dockerfile(5, dockerfile, "--allow", "network.host")


def test_name_with_capital_letters_is_said_to_name_a_registry(refusal: Refusal) -> None:
    said = refusal.dockerfile(6, "FROM scratch\nCOPY . /\n", "--push", "-t", "None/app")
    assert "capital letters" in said and "names a registry" in said


@pytest.mark.parametrize(
    ("lines", "hint"),
    [
        ("ARG A=1 V\nRUN test -z $A$V", "no value is given for V: --build-arg V=VALUE"),
        ('ARG V W\nRUN test -n "${V}${W}"', "no value is given for V, W: --build-arg V=VALUE"),
        ("ARG V\nENV V=\nRUN test -n $V && false", ""),
        ("ARG V\nRUN test -z ${V:-1}", ""),
    ],
)
def test_build_argument_without_a_value_is_named(refusal: Refusal, lines: str, hint: str) -> None:
    said = refusal.dockerfile(5, f"FROM busybox\n{lines}\n")
    assert hint in said and ("no value" in said) == bool(hint)


def test_dockerfile_with_a_similar_name_is_offered(refusal: Refusal, tmp_path: Path) -> None:
    place = context(tmp_path / "place", "FROM scratch\n")
    (place / "Dockerfile").rename(place / "DockerFile")
    assert f"did you mean -f {place}/DockerFile?" in refusal.of(2, place)
    said = refusal.of(2, "-f", place / "something.else", place)
    assert "did you mean" not in said and f"there is {place}/DockerFile" in said


def test_missing_dockerfile_is_told_with_those_that_are_there(
    refusal: Refusal, tmp_path: Path
) -> None:
    place = context(tmp_path / "place", "FROM scratch\n")
    (place / "deploy").mkdir()
    (place / "Dockerfile").rename(place / "deploy/Dockerfile")
    assert f"there is {place}/deploy/Dockerfile" in refusal.of(2, place)
    assert f"there is {place}/deploy/Dockerfile" in refusal.of(2, "-f", tmp_path / "Nofile", place)
    for name in ("api.Dockerfile", "web.Dockerfile", "api.Dockerfile.dockerignore"):
        (place / name).touch()
    said = refusal.of(2, "-f", place / "Nofile", place)
    assert f"there is {place}/api.Dockerfile, {place}/web.Dockerfile\n" in said


def test_missing_tag_is_told_with_those_that_are_there(
    refusal: Refusal, base_images: Registry
) -> None:
    name = f"{base_images.address}/library/busybox"
    said = refusal.dockerfile(8, f"FROM {name}:1.36\n")
    assert f"base image {name}:1.36 was not found" in said
    assert f"did you mean {name}:1.37? its tags are" in said


@pytest.mark.parametrize(
    ("instruction", "status", "hint"),
    [
        (
            "RUN --mount=type=bind,source=A.txt,target=/x true",
            4,
            "a.txt exists: names are case-sensitive",
        ),
        ("RUN --mount=type=bind,from=busybox,source=/bim,target=/x true", 4, "did you mean bin?"),
        ("RUN exit 137", 5, "SIGKILL"),
        ("COPY a.txt /a\nRUN /a", 5, "--chmod=755"),
    ],
)
def test_what_people_often_get_wrong_has_a_hint(
    refusal: Refusal, instruction: str, status: int, hint: str
) -> None:
    said = refusal.dockerfile(status, f"FROM busybox\n{instruction}\n", a__txt="")
    assert hint in said
    assert "Dockerfile:" in said


def test_words_of_the_command_line_have_hints(refusal: Refusal, tmp_path: Path) -> None:
    place = context(tmp_path / "place", "FROM busybox\n")
    assert "did you mean linux/amd64?" in refusal.of(8, "--platform", "amd64/linux", place)
    assert "did you mean linux/arm64?" in refusal.of(8, "--platform", "linux/arm46", place)
    assert "--build-context st: 'gone'" in refusal.of(2, "--build-context", "st=gone", place)
    (place / "Dockerfile").write_bytes("FROM busybox\n".encode("utf-16"))
    assert "save it as UTF-8" in refusal.of(2, place)


def test_build_argument_that_no_arg_takes_is_told(shipline: Shipline, tmp_path: Path) -> None:
    place = context(tmp_path / "place", "FROM scratch\nARG VERSION\nLABEL a=$VERSION\n")
    words = ("--build-arg", "VERSOIN=1", "--build-arg", "http_proxy=x", "--build-arg", "TARGETOS=x")
    said = shipline.build(*words, place).ok().err
    assert "no ARG declares the build argument VERSOIN: did you mean VERSION?" in said
    assert said.count("no ARG declares") == 1


def test_command_that_does_not_exist(refusal: Refusal) -> None:
    said = refusal.dockerfile(5, 'FROM busybox\nRUN ["/nothing", "here"]\n')
    assert "Dockerfile:2" in said
    assert "/nothing" in said
    assert "exit code: 127" in refusal.dockerfile(5, "FROM busybox\nRUN nothing-here\n")
    assert "Dockerfile:2" in refusal.dockerfile(5, "FROM scratch\nRUN make\n")


def test_hostile_archives_write_nothing_outside(refusal: Refusal, tmp_path: Path) -> None:
    place = context(refusal.place, "FROM scratch\nADD evil.tar /in/\n")
    target = tmp_path / "victim"
    target.mkdir()

    def through_link(tar: tarfile.TarFile) -> None:
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, str(target)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("way/planted"))

    def upwards(tar: tarfile.TarFile) -> None:
        tar.addfile(tarfile.TarInfo("../" * 12 + f"{target}/planted"))

    def absolute(tar: tarfile.TarFile) -> None:
        tar.addfile(tarfile.TarInfo(f"{target}/planted"))

    def hard_link(tar: tarfile.TarFile) -> None:
        (target / "file").write_text("secret")
        link = tarfile.TarInfo("taken")
        link.type, link.linkname = tarfile.LNKTYPE, f"{target}/file"
        tar.addfile(link)

    for write in (through_link, upwards, absolute, hard_link):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            write(tar)
        (place / "evil.tar").write_bytes(data.getvalue())
        out = tmp_path / "out" / write.__name__
        done = refusal.shipline.build("-o", out, place)
        assert done.status in (0, 4, 8), done.err
        assert "Traceback" not in done.err
        assert not (target / "planted").exists()
        held = [p for p in out.rglob("*") if p.is_file() and not p.is_symlink()]
        assert all(path.read_text() != "secret" for path in held)
        assert leftovers(refusal.shipline.home) == []


def test_output_that_cannot_be_written(refusal: Refusal, tmp_path: Path) -> None:
    place = context(refusal.place, "FROM scratch\nCOPY a.txt /\n", a__txt="")
    (tmp_path / "file").write_text("")
    for output in (
        "type=local,dest=/proc/nothing/here",
        "type=tar,dest=/proc/nothing/out.tar",
        f"type=oci,dest={tmp_path}/file/out.tar",
        f"type=local,dest={tmp_path}/file",
        f"type=tar,dest={tmp_path}",
    ):
        name = f"{refusal.registry.address}/bad/input"
        said = refusal.of(2, "-o", output, "--push", "-t", name, place)
        assert output.partition("dest=")[2] in said, said
    assert not list(tmp_path.glob(".*.part"))
    for path in ("/proc/nothing/id", str(tmp_path), f"{tmp_path}/file/id"):
        assert path in refusal.shipline.build("--iidfile", path, place).failed(2)


def test_a_device_that_gets_the_id_of_the_image_stays(shipline: Shipline, tmp_path: Path) -> None:
    place = context(tmp_path / "context", "FROM scratch\nCOPY a.txt /\n", a__txt="")
    (tmp_path / "id").symlink_to("/dev/null")
    assert shipline.build("--iidfile", tmp_path / "id", place).status == 0
    assert (tmp_path / "id").is_symlink()


def test_home_that_cannot_be_written(base_images: Registry, tmp_path: Path) -> None:
    place = context(tmp_path / "context", "FROM scratch\nCOPY a.txt /\n", a__txt="")
    for home in (Path("/proc/nothing"), place / "a.txt", place / "a.txt" / "below"):
        nobody = {"DOCKER_CONFIG": str(tmp_path)}
        said = Shipline(home, environment=nobody).build(place).failed(10)
        assert str(home) in said


def test_dockerfile_may_be_huge_and_deep(shipline: Shipline, tmp_path: Path) -> None:
    stages = "".join(f"FROM s{n} AS s{n + 1}\nENV A{n}=x\n" for n in range(400))
    out = tmp_path / "out"
    deep = context(tmp_path / "deep", f"FROM scratch AS s0\nCOPY a.txt /\n{stages}", a__txt="x")
    shipline.build("-o", out, deep).ok()
    assert (out / "a.txt").exists()
    big = context(
        tmp_path / "big", "FROM scratch\nCOPY a.txt /\n" + "# long\n" * 200_000, a__txt=""
    )
    shipline.build("-o", out, big).ok()
    (big / "Dockerfile").write_bytes(b"FROM scratch\n" + b"# " + b"x" * (17 << 20))
    assert "exceeds maximum allowed size" in shipline.build(big).failed(2)
    nested = context(
        tmp_path / "nested", "FROM scratch\nENV A=" + "${A:-" * 2000 + "x" + "}" * 2000
    )
    done = shipline.build(nested)
    assert done.status in (0, 4), done.err
    many = "".join(f"COPY a.txt /f{n}\n" for n in range(100))
    steps = context(tmp_path / "many", f"FROM scratch\n{many}", a__txt="x")
    shipline.build("-o", out, steps).ok()
    assert (out / "f99").exists()


def test_bytes_that_are_not_utf_8_are_unknown_in_documents_and_kept_in_files(
    shipline: Shipline, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", "")
    (place / "Dockerfile").write_bytes(
        b"FROM busybox\nMAINTAINER Jos\xe9\nLABEL name=\xe9\nENV E=\xe9\n"
        b"COPY <<F /jos\xe9\n\xe9\nF\nRUN printf %s $E \xe9 > /out\n"
    )
    written = tmp_path / "image.tar"
    words = ("--provenance", "mode=max", "--build-arg", b"A=\xe9".decode(errors="surrogateescape"))
    said = shipline.build(*words, "-o", f"type=oci,dest={written}", place).ok().err
    assert "failed" not in said
    assert "COPY <<F /jos\ufffd" in said
    with tarfile.open(written) as archive:
        blobs = [archive.extractfile(one) for one in archive if one.isfile()]
        texts = [blob.read() for blob in blobs if blob is not None]
    images = [json.loads(text) for text in texts if b'"rootfs"' in text[:4000]]
    (image,) = (one for one in images if "rootfs" in one)
    assert image["author"] == "Jos\ufffd"
    assert image["config"]["Labels"] == {"name": "\ufffd"}
    assert "E=\ufffd" in image["config"]["Env"]
    shipline.build("-o", f"type=local,dest={tmp_path / 'files'}", place).ok()
    assert Path(os.fsdecode(bytes(tmp_path / "files") + b"/jos\xe9")).read_bytes() == b"\xe9\n"
    assert (tmp_path / "files" / "out").read_text() == "\ufffd\ufffd"


def test_a_parent_that_ignores_its_children_hides_no_failure(
    shipline: Shipline, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", "FROM busybox\nRUN true\nRUN exit 3\n")
    words = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh", *command("-o", "type=cacheonly", place)]
    done = subprocess.run(words, capture_output=True, text=True, env=shipline.environ())
    assert done.returncode == 5, done.stderr
    assert "exit code: 3" in done.stderr
