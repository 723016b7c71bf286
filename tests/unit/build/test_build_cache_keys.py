"""The keys of work are those that BuildKit has for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from layers_for_tests import AMD64
from test_build_plan import Images

from shipline import dockerfile as df
from shipline.build import BuildRequest, Context, ContextKind
from shipline.build.base_images import BaseImage
from shipline.build.caching.document import CacheKey
from shipline.build.caching.keys import KeyMaker, chain_id
from shipline.build.graph import (
    ContextOp,
    CopyOp,
    ImageOp,
    MakeDirectoryOp,
    RunMount,
    RunOp,
    Vertex,
    walk,
)
from shipline.build.plan import PlatformPlan
from shipline.build.request import Host, RunOptions
from shipline.build.selecting import ContextDirectory
from shipline.layer import Layer
from shipline.oci import Descriptor, Digest, ImageConfig, Reference
from shipline.values import replace

# What BuildKit 0.25 (Docker 28.5) wrote for these, built with --network=none: the first 64 bits.
RECORDS = {
    "WORKDIR /src": "57a5ab45ee83a930",
    "WORKDIR /src/": "57a5ab45ee83a930",
    "WORKDIR //a/.././src": "57a5ab45ee83a930",
    "COPY dir /src/": "6268add5b1b3b715",
    "COPY f.txt g.txt /two/": "b165f34f2de794f8",
    'RUN echo "<&>" > /out; echo hé': "c0a992ae22f3bd62",
    "RUN --mount=type=cache,target=/root/.cache --mount=type=bind,source=f.txt,target=/f"
    " cat /f > /src/f2": "bd759e71e188e4e0",
    "RUN --mount=type=cache,target=/c,id=x --mount=type=cache,target=/d,sharing=locked"
    " --mount=type=tmpfs,target=/t true": "8a5259712d8c0adc",
    "RUN --mount=type=secret,id=foo true": "ae27cca0fe771cf4",
    "RUN --mount=type=secret,id=foo,env=FOO true": "6de95939d92ed8af",
    "RUN --mount=type=cache,target=/e,uid=1000,mode=0700 --mount=type=bind,target=/d"
    " --mount=type=bind,source=dir,target=/d2 true": "1c75cb6aa3d88df7",
    "RUN <<EOF\necho a\necho b\nEOF": "98f739fa95c6303d",
    'RUN ["/bin/true"]': "4b2f2f03feaaa0a3",
    "USER 1000:1000\nWORKDIR /home/x": "c1cd053206a3c101",
    "USER root\nCOPY --chown=daemon f.txt /d/": "952344970b9cd22e",
    "COPY --link f.txt /linked/": "5dbfbafede47210a",
    "COPY . /all": "4be93e6dab0a2ce3",
    "COPY *.txt /wild/": "d5f537e96536a891",
    "ADD f.txt /added": "8ec6194ed0cc91c4",
    "COPY --chmod=u+x f.txt /sym": "2ec0856f344c8ceb",
    "COPY <<EOF /heredoc\nhello\nEOF": "c9599df63b497072",
    "COPY --chmod=600 --chown=1:1 <<one <<two /b.cfg/\nhello\none\nho\ntwo": "d24d15a3fc089f98",
    "COPY --from=0 --chmod=0755 /src/f2 /bin/f2": "cb3ed9f1906985d2",
    "COPY --from=0 --chown=1000:1000 /src /x": "253bc8ee8679f105",
}
OLDER = {  # those that BuildKit 0.13 (Docker 26.1) wrote in another way
    "RUN --mount=type=secret,id=foo true": "da93863ad49bd457",
    "USER 1000:1000\nWORKDIR /home/x": "64ca9deea08c321c",
    "USER root\nCOPY --chown=daemon f.txt /d/": "b4a520e79aff5136",
    "COPY --from=0 --chown=1000:1000 /src /x": "e77863587a46b1fd",
}
CONTENTS = {
    "COPY dir /src/": "614127a771bee5c8",
    "COPY f.txt g.txt /two/": "76eac66996599423",
    "ADD f.txt /added": "3b19be0bc9af2d2c",
}
OF_OWN = (
    "COPY --exclude=*.txt . /x",
    "COPY --parents ./dir/a /x/",
    "COPY */a /x/",
    "COPY d* /x/",
    "RUN <<EOF\n#!/bin/sh\necho a\nEOF",
    "RUN --mount=type=tmpfs,target=/t,ro echo a",
    "RUN --mount=type=cache,target=/c,source=sub echo a",
    "RUN --mount=type=ssh echo a",
)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("context")
    (place / "dir/sub").mkdir(parents=True)
    for name, text in {"dir/a": "a", "dir/sub/b": "bb", "f.txt": "f", "g.txt": "gg"}.items():
        (place / name).write_text(text)
    (place / "dir/l").symlink_to("a")
    (place / "s.sh").write_text("#!/bin/sh\necho x\n")
    for path in place.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    (place / "s.sh").chmod(0o4755)
    return place


def stage(lines: str, context: Path, variant: str = "", **run: object) -> tuple[Vertex, KeyMaker]:
    """The vertex after some lines, and what makes its keys."""
    two = "FROM base\nRUN true\n" if "--from=0" in lines else ""
    env = "ENV Z=1\nARG A=2\nENV B=3\nARG PATHX\n" if "--from" not in lines else ""
    text = f"{two}FROM base\n{env}WORKDIR /src\n{lines}\n"
    if lines.endswith("true") and "mount" not in lines:
        text = f"FROM base\n{lines}\n"
    request = BuildRequest(
        Context(ContextKind.LOCAL, str(context)),
        run=RunOptions(network="none", **run),  # type: ignore[arg-type]
    )
    images = Images(base={})
    dockerfile = df.parse_dockerfile(text.encode(), file="Dockerfile")
    vertex = PlatformPlan(request, dockerfile, AMD64, images).result().vertex
    found = images.resolve("base", AMD64)
    files = ContextDirectory(context, "the context")
    leaves = {one: files for one in walk(vertex) if isinstance(one.op, ContextOp)}
    return vertex, KeyMaker({found.manifest: resolved(found)}, leaves, variant)


def resolved(image: BaseImage) -> BaseImage:
    digest = Digest.of(b"index")
    return BaseImage(image.reference.at(digest), image.manifest, image.config, image.layers)


def keys(lines: str, context: Path, **more: object) -> tuple[CacheKey, ...]:
    vertex, maker = stage(lines, context, **more)  # type: ignore[arg-type]
    return maker.keys(vertex)


@pytest.mark.parametrize("lines", RECORDS)
def test_the_work_of_an_instruction_has_buildkits_digest(lines: str, context: Path) -> None:
    starts = [one.digest.removeprefix("sha256:")[:16] for one in keys(lines, context)]
    assert RECORDS[lines] in starts


@pytest.mark.parametrize("lines", OLDER)
def test_older_ways_of_writing_owners_and_secrets_are_known(lines: str, context: Path) -> None:
    starts = [one.digest.removeprefix("sha256:")[:16] for one in keys(lines, context)]
    assert OLDER[lines] in starts


@pytest.mark.parametrize("lines", CONTENTS)
def test_the_files_of_a_context_have_buildkits_digest(lines: str, context: Path) -> None:
    (key,) = keys(lines, context)
    ((_, content),) = key.inputs[1]
    assert content.digest.startswith(f"sha256:{CONTENTS[lines]}")


def test_an_image_is_known_by_its_digest_and_by_its_layers() -> None:
    # what BuildKit wrote for an image of one layer
    diff = Digest.parse("sha256:cd7a0aa95bd3897fb93c19bbcb88593eeaf50e115bbd8838e6326beda3a6c648")
    root = Digest.parse("sha256:b9bcc12b40785182ff8ec03f20ab2f3edb33fade99d38b9465057290fc04d85f")
    layer = Layer(Descriptor.of(b"", "x"), diff)
    op = ImageOp(root)
    image = BaseImage(Reference.parse("busybox").at(root), op, ImageConfig(AMD64), (layer,))
    found = [one.digest for one in KeyMaker({op: image}, {}).keys(Vertex(op))]
    assert found == [
        "sha256:f58061488a2f88c8a35b15b50046fcb39068209dcbded1ce8b70f67e8ab17d0e",
        "sha256:95dcd17e21b5f55d5783fb114a33cc7f3c64d9f38c05816062f09e3166024314",
    ]


def test_the_identity_of_layers_is_a_chain() -> None:
    one, two = Digest.of(b"1"), Digest.of(b"2")
    assert chain_id([one]) == str(one)
    assert chain_id([one, two]) == str(Digest.of(f"{one} {two}".encode()))


@pytest.mark.parametrize("lines", OF_OWN)
def test_what_buildkit_tells_apart_less_well_has_one_key_of_our_own(
    lines: str, context: Path
) -> None:
    vertex, maker = stage(lines, context)
    (key,) = maker.keys(vertex)
    _, clamped = stage(lines, context, "epoch")
    assert key.digest != clamped.keys(vertex)[0].digest


def test_a_host_that_buildkit_leaves_out_of_its_keys_is_in_ours(context: Path) -> None:
    plain = keys("RUN true", context)
    here, there = (keys("RUN true", context, hosts=(Host("h", a),)) for a in ("1.1.1.1", "2.2.2.2"))
    assert len({plain, here, there}) == 3


def test_the_devices_of_a_command_are_in_its_keys(context: Path) -> None:
    vertex, maker = stage("RUN true", context)
    with_device = Vertex(replace(vertex.op, devices=("vendor.example/card=one",)), vertex.inputs)
    assert {*maker.keys(with_device)}.isdisjoint(maker.keys(vertex))


def test_builds_that_make_other_layers_have_other_keys(context: Path) -> None:
    assert keys("RUN true", context) != keys("RUN true", context, variant="epoch 1")


@pytest.mark.parametrize(
    "lines", ["COPY dir /x", "COPY *.txt /x/", "COPY . /x", "RUN --mount=target=/d true"]
)
def test_a_changed_file_has_another_key(lines: str, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "f.txt").write_text("1")
    (tmp_path / "dir/f.txt").write_text("1")
    seen = [keys(lines, tmp_path)]
    changes: tuple[Callable[[Path], object], ...] = (
        lambda one: one.write_text("2"),
        lambda one: one.chmod(0o600),
        lambda one: one.rename(one.with_name("g.txt")),
    )
    for change in changes:
        for one in [*tmp_path.rglob("*.txt")]:
            change(one)
        seen.append(keys(lines, tmp_path))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("lines", ["COPY dir /x", "COPY */* /x/", "RUN --mount=target=/d true"])
def test_files_that_change_after_they_were_read_are_noticed(lines: str, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/a").write_text("1")
    changes: tuple[Callable[[], object], ...] = (
        lambda: (tmp_path / "dir/a").write_text("2"),
        lambda: (tmp_path / "dir/a").rename(tmp_path / "dir/z"),
    )
    for change in changes:
        vertex, maker = stage(lines, tmp_path)
        assert maker.keys(vertex) and maker.read.are_unchanged()
        change()
        assert not maker.read.are_unchanged()


def test_a_file_that_is_not_there_is_no_key_and_no_error(context: Path) -> None:
    assert keys("COPY missing /x", context) == ()
    assert keys("COPY missing /x\nRUN true", context) == ()


COVERED = {
    RunOp: "args env cwd user platform mounts network insecure hosts shm_size ulimits script"
    " hostname proxies resources devices absent",
    RunMount: "type target source input id env read_only required sharing mode uid gid size owned",
    CopyOp: "sources destination files chown chmod link parents excludes unpack inputs",
    MakeDirectoryOp: "path user timestamp",
}


@pytest.mark.parametrize("kind", COVERED, ids=lambda kind: kind.__name__)
def test_a_new_field_of_an_operation_is_in_its_key(kind: type[RunOp]) -> None:
    """BuildKit's keys are made field by field: add a new one to `cache_keys`, or refuse it there,
    before it is added here.
    """
    assert list(kind.__struct_fields__) == COVERED[kind].split()


def test_a_step_has_the_working_directory_as_it_was_written(context: Path) -> None:
    """BuildKit's key has it so, while the directory is made at the clean path."""
    vertex, _ = stage("WORKDIR /a/../b/\nRUN echo", context)
    made = vertex.inputs[0].op
    assert isinstance(vertex.op, RunOp) and isinstance(made, MakeDirectoryOp)
    assert (vertex.op.cwd, made.path) == ("/a/../b/", "/b")
