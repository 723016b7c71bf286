"""--cache-to and --cache-from through the whole program: real registries, and BuildKit."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builds import Done, Shipline, config, context, document
from nodes import node
from peers import Docker, Registry
from shipline.oci import Digest

pytestmark = pytest.mark.root

PLAIN = ("--progress", "plain", "--network", "none")
DOCKERFILE = """\
FROM busybox AS build
WORKDIR /src
COPY file ./
RUN cat /proc/sys/kernel/random/uuid > /made
FROM busybox
COPY --from=build /made /made
RUN cat /made /made > /twice
"""
STEPS = {"COPY --from=build /made /made", "RUN cat /made /made > /twice"}


@pytest.fixture(scope="module", params=["docker-registry", "our node"])
def addressed(
    request: pytest.FixtureRequest, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param == "docker-registry":
        yield registry.address
    else:
        with node(tmp_path_factory.mktemp("node") / "data") as running:
            yield running.address


@pytest.fixture
def machine(tmp_path: Path, base_images: Registry) -> Iterator[list[Shipline]]:
    """Any number of machines, none of which has built anything."""
    yield [Shipline(tmp_path / f"home{number}", base_images.address) for number in range(6)]


def cached(said: str) -> set[str]:
    """The instructions that were not run, but for FROM."""
    names: dict[str, str] = {}
    found = set()
    for line in said.splitlines():
        number, _, rest = line.partition(" ")
        if rest == "CACHED":
            found.add(names[number])
        elif rest.startswith("["):
            names[number] = rest.partition("] ")[2]
    return {one for one in found if not one.startswith("FROM ")}


def pushed(done: Done) -> str:
    """The digest of what was pushed."""
    return done.err.rpartition("@")[2].strip()


def files(place: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory but its times."""
    found: dict[str, tuple[object, ...]] = {}
    digests: dict[int, Digest] = {}  # by inode: busybox has hundreds of names
    for path in sorted(place.rglob("*")):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            if status.st_ino not in digests:
                digests[status.st_ino] = Digest.of(path.read_bytes())
            content = digests[status.st_ino]
        found[str(path.relative_to(place))] = (
            *(oct(status.st_mode), status.st_uid, status.st_gid),
            content,
        )
    return found


@pytest.mark.parametrize("mode", ["min", "max"])
def test_another_machine_runs_nothing_and_downloads_no_layer(
    mode: str, addressed: str, machine: list[Shipline], tmp_path: Path
) -> None:
    place = context(tmp_path / "context", DOCKERFILE, file="content")
    ref = f"{addressed}/caches/fresh-{mode}:v1"
    push = (*PLAIN, "--push", "-t", f"{addressed}/caches/image-{mode}:v1")
    first = machine[0].build(*push, "--cache-to", f"ref={ref},type=registry,mode={mode}", place)
    second = machine[1].build(*push, "--cache-from", ref, place).ok()
    assert cached(second.err) >= STEPS
    assert pushed(second) == pushed(first.ok())
    stored = (machine[1].home / "content/blobs/sha256").iterdir()
    assert all(one.read_bytes()[:1] == b"{" for one in stored)


def test_what_a_machine_has_wins_over_newer_results_of_a_cache(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    place = context(tmp_path / "context", DOCKERFILE, file="content")
    ref = f"{base_images.address}/caches/newer:v1"
    read, write = ("--cache-from", ref), ("--cache-to", f"type=registry,ref={ref},mode=max")
    out = ("-o", tmp_path / "out")
    first = machine[0].build(*PLAIN, *out, *read, *write, place).ok()
    made = (tmp_path / "out/made").read_bytes()
    machine[1].build(*PLAIN, "--no-cache", "-o", tmp_path / "other", *write, place).ok()
    assert (tmp_path / "other/made").read_bytes() != made
    again = machine[0].build(*PLAIN, *out, *read, place).ok()
    assert cached(again.err) >= STEPS > cached(first.err)
    assert (tmp_path / "out/made").read_bytes() == made


def test_a_changed_last_step_runs_on_the_cached_ones(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    place = context(tmp_path / "context", DOCKERFILE, file="content")
    ref = f"{base_images.address}/caches/changed:v1"
    machine[0].build(
        *PLAIN, "-o", tmp_path / "one", "--cache-to", f"type=registry,ref={ref}", place
    )
    (place / "Dockerfile").write_text(DOCKERFILE + "RUN cp /twice /again\n")
    out = tmp_path / "two"
    second = machine[1].build(*PLAIN, "-o", out, "--cache-from", ref, place).ok()
    assert cached(second.err) >= STEPS
    made = (tmp_path / "one/made").read_text()
    assert (out / "again").read_text() == made + made


def test_an_edited_stage_of_a_max_cache_starts_where_it_was_edited(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    place = context(tmp_path / "context", DOCKERFILE, file="content")
    ref = f"{base_images.address}/caches/stage:v1"
    to = ("--cache-to", f"type=registry,ref={ref},mode=max")
    machine[0].build(*PLAIN, "-o", "type=cacheonly", *to, place).ok()
    edited = DOCKERFILE.replace("> /made\nFROM", "> /made && true\nFROM")
    (place / "Dockerfile").write_text(edited)
    second = machine[1].build(*PLAIN, "-o", tmp_path / "out", "--cache-from", ref, place).ok()
    assert cached(second.err) == {"WORKDIR /src", "COPY file ./"}
    made = (tmp_path / "out/made").read_text()
    assert (tmp_path / "out/twice").read_text() == made + made


def test_what_a_changed_stage_makes_anew_is_not_built_on_again(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    """The files of the stage are those of before: its instructions alone have changed."""
    text = (
        "FROM busybox AS build\nRUN {} echo same > /made\nFROM busybox\n"
        "COPY --from=build /made /made\nRUN cat /proc/sys/kernel/random/uuid > /random\n"
    )
    ref = f"{base_images.address}/caches/anew:v1"
    both = ("--cache-from", ref, "--cache-to", f"type=registry,ref={ref}")
    seen = []
    for one, changed in zip(machine, ("true;", ": ;"), strict=False):
        place = context(tmp_path / "context", text.format(changed))
        done = one.build(*PLAIN, "-o", tmp_path / "out", *both, place).ok()
        seen.append((tmp_path / "out/random").read_text())
        shutil.rmtree(tmp_path / "out")
    assert seen[0] == seen[1]
    assert f"RUN {changed} echo same > /made" not in cached(done.err)


def test_a_local_cache_and_an_inline_one(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    place = context(tmp_path / "context", DOCKERFILE, file="content")
    name = f"{base_images.address}/caches/inline:v1"
    to = ("--cache-to", f"type=local,dest={tmp_path}/cache", "--cache-to", "type=inline")
    machine[0].build(*PLAIN, "--push", "-t", name, *to, place).ok()
    for one, source in zip(machine[1:], (f"type=local,src={tmp_path}/cache", name), strict=False):
        found = one.build(*PLAIN, "--push", "-t", f"{name}-2", "--cache-from", source, place).ok()
        assert cached(found.err) >= STEPS
    written = config(base_images, "caches/inline", document(base_images, "caches/inline", "v1"))
    records = json.loads(base64.b64decode(written["moby.buildkit.cache.v0"]))
    assert sum("layers" in one for one in records) == 2


def test_the_inline_cache_of_a_base_image_is_not_inherited(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    name = f"{base_images.address}/caches/base:v1"
    inline = ("--build-arg", "BUILDKIT_INLINE_CACHE=1")
    place = context(tmp_path / "base", "FROM busybox\nRUN touch /a\n")
    machine[0].build(*PLAIN, "--push", "-t", name, *inline, place).ok()
    child = context(tmp_path / "child", f"FROM {name}\nLABEL a=b\n")
    machine[0].build(*PLAIN, "--push", "-t", f"{name}-child", child).ok()
    manifest = document(base_images, "caches/base", "v1-child")
    assert "moby.buildkit.cache.v0" not in config(base_images, "caches/base", manifest)


def test_no_cache_reads_nothing_and_writes_all(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    place = context(tmp_path / "context", DOCKERFILE, file="content")
    ref = f"{base_images.address}/caches/nocache:v1"
    both = ("--cache-from", ref, "--cache-to", f"type=registry,ref={ref},mode=max")
    machine[0].build(*PLAIN, "-o", tmp_path / "one", *both, place).ok()
    fresh = machine[1].build(*PLAIN, "--no-cache", "-o", tmp_path / "two", *both, place).ok()
    assert not cached(fresh.err)
    newer = machine[2].build(*PLAIN, "-o", tmp_path / "three", *both, place).ok()
    assert cached(newer.err) >= STEPS
    made = [(tmp_path / one / "made").read_text() for one in ("one", "two", "three")]
    assert made[0] != made[1] == made[2]
    stage = machine[3].build(
        *PLAIN, "--no-cache-filter", "build", "-o", tmp_path / "four", *both, place
    )
    assert cached(stage.ok().err) == set()
    assert (tmp_path / "four/made").read_text() != made[2]


def test_machines_and_platforms_share_one_cache_without_losing_anything(
    addressed: str, machine: list[Shipline], tmp_path: Path
) -> None:
    ref = f"{addressed}/caches/shared:v1"
    places = [
        context(tmp_path / f"context{number}", "FROM busybox\nCOPY file /\n", file=f"{number}")
        for number in range(2)
    ]
    platforms = ("linux/amd64", "linux/arm64")
    jobs = [
        (machine[number], place, platform)
        for number, (place, platform) in enumerate(
            (place, platform) for place in places for platform in platforms
        )
    ]

    def build(job: tuple[Shipline, Path, str]) -> None:
        one, place, platform = job
        to = ("--cache-to", f"type=registry,ref={ref},mode=max", "--platform", platform)
        done = one.build(*PLAIN, "-o", "type=cacheonly", *to, place).ok()
        assert "was not written" not in done.err

    with ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(build, jobs))
    for _, place, platform in jobs:
        fresh = Shipline(tmp_path / "fresh", machine[0].mirror)
        words = ("--cache-from", ref, "--platform", platform, "-o", "type=cacheonly")
        done = fresh.build(*PLAIN, *words, place).ok()
        assert cached(done.err) == {"COPY file /"}, (place, platform)
        shutil.rmtree(fresh.home)


def test_an_old_cache_never_changes_what_is_built(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    """Random edits, each built from the caches of all builds before it, on a fresh machine or not,
    and without any.
    """
    chance = random.Random(7)
    ref = f"{base_images.address}/caches/random:v1"
    both = ("--cache-from", ref, "--cache-to", f"type=registry,ref={ref},mode=max")
    place = tmp_path / "context"
    hits = 0
    for number in range(8):
        if not number or chance.random() < 0.7:
            context(place, _random_dockerfile(chance))
        _change_files(place, chance)
        used = Shipline(tmp_path / "used", base_images.address)
        found = used.build(*PLAIN, "-o", tmp_path / "with", *both, place).ok()
        plain = machine[0].build(*PLAIN, "--no-cache", "-o", tmp_path / "without", place).ok()
        assert files(tmp_path / "with") == files(tmp_path / "without"), (
            f"{number}\n{(place / 'Dockerfile').read_text()}\n{found.err}\n{plain.err}"
        )
        hits += len(cached(found.err))
        for one in ("used", "with", "without")[chance.randrange(2) :]:
            shutil.rmtree(tmp_path / one)
    assert hits > 3


_LINES = (
    "RUN echo 1 >> /log",
    "RUN echo 2 >> /log",
    "COPY a /x/",
    "COPY a b /x/",
    "COPY . /all",
    "COPY *.txt /x/",
    "COPY --chown=5:6 a /y",
    "COPY --chmod=700 a /y",
    "COPY --link a /z",
    "COPY d /d",
    "COPY --exclude=a . /most",
    "WORKDIR /w",
    "USER 7",
    "USER root",
    "ENV A=1",
    "ENV A=2",
    "RUN echo $A >> /log",
    "RUN --mount=target=/c cat /c/a >> /log",
    "RUN --mount=source=d,target=/c ls /c >> /log",
    "RUN mkdir -p /x && ls -ln /x | cut -c 1-10 > /modes",
    "COPY --from=one /log /log1",
    "COPY --from=one / /one",
    "RUN --mount=from=one,target=/o cat /o/log >> /log",
)


def _random_dockerfile(chance: random.Random) -> str:
    free = [line for line in _LINES if "=one" not in line]
    stages = [["FROM busybox AS one", "RUN touch /log && chmod 666 /log", *chance.sample(free, 2)]]
    stages.append(["FROM busybox", "RUN touch /log && chmod 666 /log", *chance.sample(_LINES, 4)])
    text = [line for stage in stages for line in [*stage, "USER root"]]
    return "\n".join(line for line in text if line != "USER 7") + "\n"


def _change_files(place: Path, chance: random.Random) -> None:
    (place / "d").mkdir(exist_ok=True)
    for name in ("a", "b", "c.txt", "d/a", "d/e"):
        (place / name).write_text(chance.choice("12"))
        (place / name).chmod(chance.choice([0o644, 0o600, 0o755]))
    if chance.random() < 0.3:
        (place / "d/e").unlink()
        (place / "d/e").symlink_to("a")
    elif (place / "d/e").is_symlink():
        (place / "d/e").unlink()


MOUNTS = """\
FROM busybox
RUN --mount=type=cache,target=/kept {one}
RUN --mount=type=cache,target=/own,uid=7,mode=0750 {two}
"""


def test_cache_mounts_travel_with_a_cache(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    ref = f"{base_images.address}/caches/mounts:v1"
    words = (*PLAIN, "-o", tmp_path / "out")
    to = ("--cache-to", f"type=registry,ref={ref},mounts=true")
    source = ("--cache-from", f"type=registry,ref={ref},mounts=true")
    place = tmp_path / "context"

    def build(one: Shipline, first: str, second: str, *more: str) -> str:
        context(place, MOUNTS.format(one=first, two=second))
        return one.build(*words, *more, place).ok().err

    make = "echo kept > /kept/file && ln -s file /kept/link && chmod 4711 /kept/file"
    build(machine[0], make, "mkdir /own/d && chown 7:8 /own/d", *to)
    look = "ls -lna /kept > /kept.list && cp /kept/link /seen"
    build(machine[1], look, "ls -lnad /own /own/d > /own.list", *source, *to)
    assert (tmp_path / "out/seen").read_text() == "kept\n"
    assert "-rws--x--x" in (tmp_path / "out/kept.list").read_text()
    own, inner = (tmp_path / "out/own.list").read_text().splitlines()
    assert own.split()[:4:2] == ["drwxr-x---", "7"] and inner.split()[2:4] == ["7", "8"]
    shutil.rmtree(tmp_path / "out")
    build(machine[2], "ls /kept > /seen", "true", "--cache-from", ref)
    assert (tmp_path / "out/seen").read_text() == ""
    shutil.rmtree(tmp_path / "out")
    build(machine[3], "ls /kept > /seen", "true", "--no-cache", *source)
    assert (tmp_path / "out/seen").read_text() == ""


def test_buildkit_uses_what_is_written_here(
    docker: Docker, base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    random_too = DOCKERFILE.replace("cat /made /made", "cat /proc/sys/kernel/random/uuid")
    place = context(tmp_path / "context", random_too, file="content")
    ref = f"{base_images.address}/caches/for-buildkit:v1"
    out = ("-o", f"type=local,dest={tmp_path}/ours")
    to = ("--cache-to", f"type=registry,ref={ref},mode=max")
    machine[0].build(*PLAIN, *out, *to, place).ok()
    docker.run("buildx", "prune", "--all", "--force")
    done = docker.run(
        *("buildx", "build", "--network=none", "--cache-from", f"type=registry,ref={ref}"),
        *("-o", f"type=local,dest={tmp_path}/theirs", place),
    )
    assert done.returncode == 0, done.stdout
    assert files(tmp_path / "theirs") == files(tmp_path / "ours")


@pytest.mark.parametrize("cache", ["registry", "local", "index", "inline"])
def test_what_buildkit_wrote_is_used_here(
    cache: str, docker: Docker, base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    place = context(tmp_path / "context", DOCKERFILE, file=f"content for {cache}")
    ref = f"{base_images.address}/caches/of-buildkit:{cache}"
    to, source = {
        "registry": (f"type=registry,ref={ref},mode=max,image-manifest=true", ref),
        "index": (f"type=registry,ref={ref},mode=max,image-manifest=false", ref),
        "local": (f"type=local,dest={tmp_path}/cache", f"type=local,src={tmp_path}/cache"),
        "inline": ("type=inline", f"{ref}-image"),
    }[cache]
    image = f"type=image,name={ref}-image,push=true,oci-mediatypes=true"
    done = docker.run(
        *("buildx", "build", "--network=none", "--provenance=false", "--cache-to", to),
        *("-o", image, place),
    )
    assert done.returncode == 0, done.stdout
    again = machine[0].build(*PLAIN, "--push", "-t", f"{ref}-2", "--cache-from", source, place).ok()
    assert cached(again.err) >= STEPS
    theirs = document(base_images, "caches/of-buildkit", f"{cache}-image")["layers"]
    ours = document(base_images, "caches/of-buildkit", f"{cache}-2")["layers"]
    assert [one["digest"] for one in ours] == [one["digest"] for one in theirs]


def test_a_piped_build_uses_caches_too(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    ref = f"{base_images.address}/caches/piped:v1"
    text = b"FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /made\n"
    both = ("--cache-from", ref, "--cache-to", f"type=registry,ref={ref}")
    machine[0].build(*PLAIN, "-o", "type=cacheonly", *both, "-", stdin=text).ok()
    done = machine[1].build(*PLAIN, "-o", "type=cacheonly", *both, "-", stdin=text).ok()
    assert len(cached(done.err)) == 1


def test_layers_of_a_cache_are_recompressed_on_request(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    place = context(tmp_path / "context", DOCKERFILE, file="content")
    ref = f"{base_images.address}/caches/zstd:v1"
    to = f"type=registry,ref={ref},mode=max,compression=zstd,force-compression=true"
    machine[0].build(*PLAIN, "-o", tmp_path / "one", "--cache-to", to, place).ok()
    types = {one["mediaType"] for one in document(base_images, "caches/zstd", "v1")["layers"]}
    assert types == {"application/vnd.oci.image.layer.v1.tar+zstd"}
    done = machine[1].build(*PLAIN, "-o", tmp_path / "two", "--cache-from", ref, place).ok()
    assert cached(done.err) >= STEPS
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_skopeo_sees_a_cache_as_any_image(
    base_images: Registry, machine: list[Shipline], tmp_path: Path
) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("needs skopeo")
    place = context(tmp_path / "context", DOCKERFILE, file="content")
    ref = f"{base_images.address}/caches/copied"
    machine[0].build(
        *PLAIN, "-o", "type=cacheonly", "--cache-to", f"type=registry,ref={ref}:a", place
    ).ok()
    words = ["skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run([*words, f"docker://{ref}:a", f"docker://{ref}:b"], check=True)
    done = machine[1].build(*PLAIN, "-o", "type=cacheonly", "--cache-from", f"{ref}:b", place).ok()
    assert cached(done.err) >= STEPS
