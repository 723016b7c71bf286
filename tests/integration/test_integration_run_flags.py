"""What RUN is allowed: networks, privileges and devices, by its flags and those of the build."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import Shipline, context, leftovers, processes
from connectors import NAMES, connector_path
from peers import Registry
from users import ordinary_user

pytestmark = [pytest.mark.peers, pytest.mark.root]
PLAIN = ("--progress", "plain", "-o", "type=cacheonly")
NETWORK = "[internal] network of RUN: "


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Iterator[Shipline]:
    home = tmp_path / "home"
    yield Shipline(home, base_images.address)
    assert leftovers(home, word=str(home)) == []


def test_without_its_entitlement_nothing_of_the_build_runs(
    shipline: Shipline, tmp_path: Path
) -> None:
    steps = "FROM busybox\nRUN touch /x\nRUN --security=insecure mount -t tmpfs none /mnt\n"
    place = context(tmp_path / "context", steps)
    said = shipline.build(*PLAIN, "--allow", "network.host", place).failed(4)
    assert "security.insecure is not allowed" in said and "--allow security.insecure" in said
    assert "] RUN touch" not in said


def test_a_cache_whose_directory_becomes_a_link_does_not_lead_to_the_host(
    shipline: Shipline, tmp_path: Path
) -> None:
    """As another step that has the cache could do it, right before the runtime starts."""
    outside, programs = tmp_path / "outside", tmp_path / "programs"
    outside.mkdir()
    programs.mkdir()
    swap = f'mv "$one" "$one.old" && ln -s {outside} "$one"'
    (programs / "crun").write_text(
        f"#!/bin/sh\nfor one in {shipline.home}/mounts/*/*/d; do\n"
        f'    [ -L "$one" ] || [ ! -d "$one" ] || {{ {swap}; }}\n'
        f'done\nexec {shutil.which("crun")} "$@"\n'
    )
    (programs / "crun").chmod(0o755)
    cache = "RUN --mount=type=cache,id=shared,target=/c"
    steps = f"FROM busybox\n{cache} mkdir /c/d\n{cache},source=d echo x > /c/written\n"
    place = context(tmp_path / "context", steps)
    shipline.build(*PLAIN, place, PATH=f"{programs}:{os.environ['PATH']}").ok()
    assert [one.readlink() for one in shipline.home.glob("mounts/*/*/d")] == [outside]
    assert [one.read_text() for one in shipline.home.glob("mounts/*/*/d.old/*")] == ["x\n"]
    assert not any(outside.iterdir())


def test_a_step_has_no_namespaces_of_its_own(shipline: Shipline, tmp_path: Path) -> None:
    steps = (
        "FROM busybox\nRUN (true) && ! unshare -U true && ! unshare -r true && ! unshare -m true\n"
        "RUN --security=insecure unshare -U true\n"
    )
    place = context(tmp_path / "context", steps)
    said = shipline.build(*PLAIN, "--allow", "security.insecure", place).ok().err
    assert "Operation not permitted" in said and "not implemented" not in said


@pytest.mark.parametrize("mount", ["tmpfs", "secret,id=s"])
def test_removing_mount_points_follows_no_link_of_the_step(
    shipline: Shipline, tmp_path: Path, mount: str
) -> None:
    outside, secret = tmp_path / "outside", tmp_path / "secret"
    secret.write_text("s")
    (outside / "b").mkdir(parents=True)
    if mount == "tmpfs":
        (outside / "b/c").mkdir()
    else:
        (outside / "b/c").touch()
    before = sorted(outside.rglob("*")), outside.stat().st_mtime_ns
    swap = f"mv /a /old && ln -s {outside} /a"
    steps = f"FROM busybox\nRUN --mount=type={mount},target=/a/b/c {swap}\n"
    place = context(tmp_path / "context", steps)
    shipline.build(*PLAIN, "--secret", f"id=s,src={secret}", place).ok()
    assert (sorted(outside.rglob("*")), outside.stat().st_mtime_ns) == before


def test_a_device_that_a_step_made_is_not_read(shipline: Shipline, tmp_path: Path) -> None:
    """Here it is /dev/null; a disk of the host was copied."""
    mount = "--mount=type=bind,from=made,source=/disk,target=/x"
    made = "FROM busybox AS made\nRUN mknod /disk c 1 3\nFROM busybox\n"
    place = context(tmp_path / "context", f"{made}RUN {mount},rw test -f /x\n")
    said = shipline.build(*PLAIN, place).failed(4)
    assert "disk is neither a file nor a directory" in said
    (place / "Dockerfile").write_text(f"{made}RUN {mount} test -c /x && ! cat /x\n")
    shipline.build(*PLAIN, place).ok()


def test_mount_points_below_a_read_only_mount_change_no_layer(
    shipline: Shipline, tmp_path: Path
) -> None:
    mounts = "--mount=type=bind,from=busybox,target=/m --mount=type=tmpfs,target=/m/etc/below"
    place = context(tmp_path / "context", f"FROM busybox\nRUN {mounts} true\n")
    assert "ead-only file system" in shipline.build(*PLAIN, place).failed(10)
    assert not list(shipline.home.glob("layers/*/fs/etc/below"))


def test_other_users_find_no_programs_of_a_running_step(shipline: Shipline, tmp_path: Path) -> None:
    """A step knows where its files are on the host: /proc/self/mountinfo says it."""
    step = "cp /bin/busybox /own && chmod 4755 /own && echo $((6 * 7))there && sleep 60"
    place = context(tmp_path / "context", f"FROM busybox\nRUN {step}\n")
    with shipline.start(*PLAIN, place) as build:
        assert build.stderr is not None
        assert any(b"42there" in line for line in build.stderr)
        (found,) = shipline.home.glob("tmp/*/*/upper/own")
        inside = [one for one in found.parents if one.is_relative_to(shipline.home)]
        closed = [one for one in inside if not one.stat().st_mode & 0o011]
        build.terminate()
        build.communicate()
    assert closed != []


def test_an_insecure_step_has_what_the_build_has_and_a_sandboxed_one_does_not(
    shipline: Shipline, tmp_path: Path
) -> None:
    script = (
        "mkdir -p /x && mount -t tmpfs none /x && echo mounted; ls /dev;"
        " grep -q ' /proc/sys ' /proc/mounts || echo writable; grep CapEff /proc/self/status"
    )
    flags = ("--security=insecure ", "", "--security=sandbox ")
    steps = "".join(f"RUN {flag}: {n}; {script}\n" for n, flag in enumerate(flags))
    place = context(tmp_path / "context", f"FROM busybox\n{steps}")
    said = shipline.build(*PLAIN, "--allow", "security.insecure", place).ok().err
    own = Path("/proc/self/status").read_text().split("CapEff:\t")[1].split()[0]
    assert said.count(" writable\n") == said.count(" mounted\n") == said.count(own) == 1
    assert said.count("00000000a80425fb") == 2
    if Path("/dev/fuse").exists():
        assert " fuse\n" in said


@pytest.fixture
def vendor() -> Iterator[str]:
    """A vendor with a device, which this machine knows for the test alone."""
    name = f"shipline-test-{os.getpid()}.example"
    edits = {
        "env": ["CARD=here", "PATH=/card:/bin"],
        "deviceNodes": [
            {"path": "/dev/card", "hostPath": "/dev/zero", "fileMode": 0o604, "uid": 7},
            {"path": "/opt/card", "hostPath": "/dev/full"},
        ],
        "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/card/name"}],
    }
    document = {"kind": f"{name}/card", "devices": [{"name": "one", "containerEdits": edits}]}
    file = Path("/run/cdi", f"{name}.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document))
    try:
        yield f"{name}/card"
    finally:
        file.unlink()
        with contextlib.suppress(OSError):
            file.parent.rmdir()


def test_a_step_has_the_devices_that_are_allowed(
    shipline: Shipline, tmp_path: Path, vendor: str
) -> None:
    script = (
        "echo $CARD $PATH; stat -c '%n %a %u %t' /dev/card; head -c 3 /dev/card | od -An -tx1;"
        " echo x > /opt/card || echo full; cat /card/name; echo x >> /card/name; mknod /x b 7 0;"
        " head -c 1 /x || echo closed"
    )
    steps = f"FROM busybox\nRUN --device={vendor}=one,required {script}\n"
    place = context(tmp_path / "context", steps + f"RUN --device={vendor}=two ls /dev\n")
    refused = shipline.build(*PLAIN, place).failed(4)
    assert f"device {vendor}=one is requested by the build but not allowed" in refused
    assert f"--allow device={vendor}=one" in refused
    out = tmp_path / "out"
    said = shipline.build(*PLAIN, "--allow", "device", "-o", str(out), place).ok().err
    lines = [line.split(" ", 2)[-1] for line in said.splitlines()]
    assert "here /card:/bin" in lines and "/dev/card 604 7 1" in lines
    assert {" 00 00 00", "full", "closed"} <= {*lines}
    assert f"Optional device {vendor}=two is not registered" in said
    assert not (out / "card").exists() and not (out / "opt/card").exists()
    assert "CACHED" in shipline.build(*PLAIN, "--allow", f"device={vendor}=one", place).ok().err


@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
def test_an_ordinary_user_has_steps_with_networks_of_their_own(
    base_images: Registry, program: str
) -> None:
    host, port = base_images.address.split(":")
    script = f"wget -q -O- http://{host}:{port}/v2/ && echo reached; ls /sys/class/net; true"
    steps = f"FROM busybox\nRUN --network=default {script}\nRUN --network=none {script}\n"
    with ordinary_user(subids=True) as user:
        place = context(user.home / "user", steps)
        user.give(user.home)
        mirrors = f"docker.io=http://{base_images.address}"
        place_of_programs = Path(connector_path(program).split(":")[0])
        shown = user.home / "programs"  # the cache of the tests is root's
        copy_programs(place_of_programs, shown)
        path = f"{shown / program}:/usr/bin:/bin:/usr/sbin:/sbin"
        given = ("build", *PLAIN, str(place))
        done = user.run(*given, SHIPLINE_MIRRORS=mirrors, PATH=path)
        assert done.returncode == 0, done.stdout
        assert f"{NETWORK}isolated by {program}" in done.stdout, done.stdout
        assert "reached" not in done.stdout.replace("&& echo reached", "")
        allowed = ("--network", "host", "--no-cache")
        done = user.run(*given, *allowed, SHIPLINE_MIRRORS=mirrors, PATH=path)
        assert NETWORK not in done.stdout
        assert done.stdout.replace("&& echo reached", "").count("reached") == 1
        assert user.processes() == []


HUNGRY = "FROM busybox\nRUN x=$(head -c 100000000 /dev/zero | tr '\\0' a); echo ${#x}\n"


def test_a_step_that_outgrows_its_memory_says_so(shipline: Shipline, tmp_path: Path) -> None:
    place = context(tmp_path / "context", HUNGRY)
    said = shipline.build(*PLAIN, "-m", "32m", place).failed(5)
    assert "it reached its memory limit of 32 MiB, and the kernel killed a process" in said
    context(place, "FROM busybox\nRUN exit 137\n")
    said = shipline.build(*PLAIN, "-m", "32m", place).failed(5)
    assert "memory limit" not in said and "SIGKILL" in said


def test_an_ordinary_user_limits_steps_in_groups_of_its_own(base_images: Registry) -> None:
    with delegated_group() as group:
        outer = ("sh", "-ec", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh")
        for start, status in ((outer, 5), ((), 10)):
            with ordinary_user(subids=True, outer=start) as user:
                for path in (group, *group.iterdir()):
                    if path.name in (group.name, "cgroup.procs", "tasks", "cgroup.subtree_control"):
                        os.chown(path, user.home.stat().st_uid, -1)
                place = context(user.home / "user", HUNGRY)
                user.give(user.home)
                mirrors = f"docker.io=http://{base_images.address}"
                done = user.run("build", *PLAIN, "-m", "64m", str(place), SHIPLINE_MIRRORS=mirrors)
                assert done.returncode == status, done.stdout
                if status == 5:
                    assert "memory limit of 64 MiB" in done.stdout
                else:
                    assert "cannot limit a step" in done.stdout and "Delegate=yes" in done.stdout


@contextlib.contextmanager
def delegated_group() -> Iterator[Path]:
    """A control group with a limit of memory, of either version."""
    root = Path("/sys/fs/cgroup")
    if (root / "memory").is_dir():
        root = root / "memory"
    else:
        (root / "cgroup.subtree_control").write_text("+memory")
    group = root / f"shipline-test-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        for left in (*group.glob("*/"), group):
            left.rmdir()


def copy_programs(source: Path, target: Path) -> None:
    """The program in `source` and its files at a place where anybody can read them; the system's
    others are hidden.
    """
    shutil.copytree(source.parent / "root", target / "root")
    shutil.copytree(source, target / source.name)
    wrapper = target / source.name / source.name
    wrapper.write_text(wrapper.read_text().replace(str(source.parent), str(target)))
    for other in {*NAMES} - {source.name}:
        hidden = target / source.name / other
        hidden.write_text("#!/bin/sh\nexit 1\n")
        hidden.chmod(0o755)


def test_killed_it_leaves_no_program_of_a_network(shipline: Shipline, tmp_path: Path) -> None:
    place = context(tmp_path / "context", "FROM busybox\nRUN echo begun && sleep 1000\n")
    with shipline.start(*PLAIN, place, PATH=connector_path("pasta")) as process:
        assert process.stderr is not None
        assert any(line.endswith(b" begun\n") for line in process.stderr)
        assert any("pasta" in one for one in processes(shipline.home, str(shipline.home)))
        process.kill()
    shipline.build(*PLAIN, context(tmp_path / "next", "FROM busybox\nRUN true\n")).ok()


def test_without_a_program_the_build_says_that_steps_share_the_network(
    shipline: Shipline, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", "FROM busybox\nRUN true\n")
    path = ":".join(connector_path("pasta").split(":")[1:])
    said = shipline.build(*PLAIN, place, PATH=path).ok().err
    assert f"{NETWORK}host (neither pasta nor slirp4netns is installed)" in said


def test_a_step_is_cached_where_the_files_that_it_mounts_are_the_same(
    shipline: Shipline, tmp_path: Path
) -> None:
    text = (
        "FROM busybox AS made\nCOPY seed /\nRUN mkdir out && echo {} >out/file\n"
        "FROM busybox\nRUN --mount=from=made,source=out,target=/out,rw echo r$((6 * 7))n\n"
    )

    def said(content: str, seed: str) -> str:
        place = context(tmp_path / f"{content}-{seed}", text.format(content), seed=seed)
        return shipline.build(*PLAIN, place).ok().err

    assert " r42n\n" in said("one", "1")
    assert " r42n\n" not in said("one", "2")
    assert " r42n\n" in said("two", "2")


def test_a_step_runs_again_where_the_directory_that_it_mounts_has_another_mode(
    shipline: Shipline, tmp_path: Path
) -> None:
    text = (
        "FROM busybox AS made\nRUN mkdir out && touch out/file && chmod {} out\n"
        "FROM busybox\nRUN --mount=from=made,source=out,target=/out stat -c mode-%a-%u /out\n"
    )
    for change, mode in (("700", "700-0"), ("755", "755-0"), ("755 out && chown 7", "755-7")):
        place = context(tmp_path / "context", text.format(change))
        assert f" mode-{mode}\n" in shipline.build(*PLAIN, place).ok().err


def test_steps_do_not_see_the_umask_of_who_builds(shipline: Shipline, tmp_path: Path) -> None:
    text = (
        "FROM scratch\nCOPY --from=busybox /bin /bin\n"
        "RUN --mount=target=/below/context,rw --mount=source=seed,target=/file/seed"
        " stat -c m%a-%n / /dev /proc /sys /below /below/context /file\n"
        "RUN stat -c m%a-%n /dev\n"
    )
    place = context(tmp_path / "context", text, seed="")
    before = os.umask(0o077)
    try:
        said = shipline.build(*PLAIN, place).ok().err
    finally:
        os.umask(before)
    seen = re.findall(r" m(\d+)-(/\S*)\n", said)
    assert {path for _, path in seen} > {"/below/context", "/file"}
    assert {mode for mode, path in seen if path not in ("/proc", "/sys")} == {"755"}


def test_a_directory_that_may_be_written_keeps_its_owner_and_mode(
    shipline: Shipline, tmp_path: Path
) -> None:
    text = (
        "FROM busybox AS made\nRUN mkdir out && chown 7:8 out && chmod 2750 out\n"
        "FROM busybox\nRUN --mount=from=made,source=out,target=/out,rw stat -c m%a-%u-%g /out\n"
    )
    place = context(tmp_path / "context", text)
    assert " m2750-7-8\n" in shipline.build(*PLAIN, place).ok().err
