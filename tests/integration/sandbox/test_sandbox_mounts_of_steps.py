"""What a step sees by mounts, and that nothing of them stays behind."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from roots import busybox_root
from sandboxes import RUNTIMES, SHELL, in_build, overlay, run_step, runtime_named
from shipline.errors import SandboxError, UsageError
from shipline.sandbox import (
    BindMount,
    SecretFile,
    StepMount,
    TmpfsMount,
    open_sandbox,
    open_workspace,
)
from shipline.values import replace

pytestmark = pytest.mark.root
both_runtimes = pytest.mark.parametrize("runtime", RUNTIMES)


def all_mtimes(root: Path) -> dict[str, int]:
    paths = [root, *root.rglob("*")]
    return {str(path.relative_to(root)): os.lstat(path).st_mtime_ns for path in paths}


@both_runtimes
def test_a_step_that_writes_nothing_changes_nothing(tmp_path: Path, runtime: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    mounts: tuple[StepMount, ...] = (
        BindMount(source, "/deep/er/target"),
        SecretFile("/run/secrets/key", b"x"),
        TmpfsMount("/tmp/inside"),
        BindMount(source, "relative"),
    )
    before = all_mtimes(busybox_root())
    step = replace(SHELL, mounts=mounts, cwd="/home/app")
    outcome = run_step(tmp_path, runtime, step, script="test -d /deep/er/target")
    assert outcome.status == 0
    assert outcome.written <= before.keys()  # copied up, and again as it was but for the time
    assert all_mtimes(busybox_root()) == before


@both_runtimes
def test_what_the_step_writes_beside_mount_points_stays(tmp_path: Path, runtime: str) -> None:
    lower = tmp_path / "lower"
    (lower / "bin").mkdir(parents=True)
    os.link(busybox_root() / "bin/busybox", lower / "bin/sh")
    script = "echo mine > /etc/mine; cat /etc/hosts /etc/resolv.conf > /copy"
    outcome = run_step(tmp_path, runtime, SHELL, script=script, lower=lower)
    assert outcome.written == {"etc", "etc/mine", "copy"}
    hosts, resolver = "127.0.0.1\tlocalhost buildkitsandbox\n", Path("/etc/resolv.conf").read_text()
    text = (outcome.upper / "copy").read_text()
    assert text.startswith(hosts) and text.endswith(resolver)


@both_runtimes
def test_network_files_of_the_image_are_covered_not_changed(tmp_path: Path, runtime: str) -> None:
    lower = tmp_path / "lower"
    for name in ("bin", "etc", "run/resolver"):
        (lower / name).mkdir(parents=True)
    os.link(busybox_root() / "bin/busybox", lower / "bin/sh")
    (lower / "etc/hosts").write_text("image\n")
    (lower / "etc/resolv.conf").symlink_to("../run/resolver/file")
    step = replace(SHELL, extra_hosts=(("db", "192.0.2.7"),))
    script = "cat /etc/hosts; echo x >> /etc/hosts; rm /etc/hosts; cat /etc/resolv.conf > /copy"
    outcome = run_step(tmp_path, runtime, step, script=script, lower=lower)
    assert "192.0.2.7\tdb\n" in outcome.out and "image" not in outcome.out
    assert outcome.written == {"copy", "run", "run/resolver"} | (outcome.written & {"etc"})
    assert (outcome.upper / "copy").read_text() == Path("/etc/resolv.conf").read_text()


@both_runtimes
def test_binds_are_read_only_unless_said(tmp_path: Path, runtime: str) -> None:
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "one").write_text("single file")
    mounts = (
        BindMount(tmp_path / "closed", "/closed"),
        BindMount(tmp_path / "open", "/open", read_only=False),
        BindMount(tmp_path / "one", "/etc/one"),
        BindMount(tmp_path / "closed", "/open/nested"),
    )
    script = "cat /closed/file /etc/one /open/nested/file; echo 1 > /open/new; echo 1 > /closed/new"
    outcome = run_step(tmp_path, runtime, replace(SHELL, mounts=mounts), script=script)
    assert outcome.out == "closedsingle fileclosed"
    assert outcome.status == 1 and "Read-only file system" in outcome.err
    assert (tmp_path / "open/new").exists() and not (tmp_path / "closed/new").exists()


@both_runtimes
def test_an_agents_socket_can_be_mounted(tmp_path: Path, runtime: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "agent"))
        mounts = (BindMount(tmp_path / "agent", "/run/agent/0", read_only=False),)
        script = "test -S /run/agent/0 && echo socket"
        outcome = run_step(tmp_path, runtime, replace(SHELL, mounts=mounts), script=script)
    assert outcome.out == "socket\n" and "run" not in outcome.written


@both_runtimes
def test_tmpfs_and_shared_memory_have_their_sizes(tmp_path: Path, runtime: str) -> None:
    step = replace(SHELL, mounts=(TmpfsMount("/t", size=1 << 20),), shm_size=2 << 20)
    script = "df -k /t /dev/shm | awk 'NR > 1 { print $2 }'; touch /t/gone; stat -c %a /t /dev/shm"
    outcome = run_step(tmp_path, runtime, step, script=script)
    assert outcome.out.split() == ["1024", "2048", "1777", "1777"]
    assert not (outcome.upper / "t").exists()


@both_runtimes
def test_secrets_are_files_in_memory_with_their_owner(tmp_path: Path, runtime: str) -> None:
    secret = SecretFile("/run/secrets/token", b"hush\0\n", mode=0o440, uid=1000, gid=10)
    step = replace(SHELL, mounts=(secret,), secret_env=("TOKEN=quiet=1",))
    script = """
        stat -c '%a %u %g' /run/secrets/token
        sha256sum < /run/secrets/token; echo $TOKEN; echo x > /run/secrets/token
        grep ' /run/secrets/token ' /proc/mounts | cut -d' ' -f3
    """
    outcome = run_step(tmp_path, runtime, step, script=script)
    mode, digest, value, filesystem = outcome.out.splitlines()
    assert (mode, value, filesystem) == ("440 1000 10", "quiet=1", "tmpfs")
    assert digest.split()[0] == hashlib.sha256(secret.content).hexdigest()
    assert "run" not in outcome.written
    assert "hush" not in repr(step) and "quiet" not in repr(step)


@both_runtimes
def test_secrets_touch_no_disk(tmp_path: Path, runtime: str) -> None:
    words: list[bytes] = []
    seen: list[str] = []

    def build() -> None:
        with (
            open_workspace(tmp_path / "state") as scratch,
            open_sandbox(scratch, runtime=runtime_named(runtime)) as sandbox,
            overlay(tmp_path / "o", busybox_root()) as root,
        ):
            device = os.stat(tmp_path).st_dev

            def look(data: bytes, _: int) -> None:
                words.append(data)
                for base, _directories, names in os.walk(
                    tmp_path / "state"
                ):  # the runtime works in there
                    for path in (Path(base, name) for name in names):
                        with suppress(FileNotFoundError):
                            if path.is_file() and os.lstat(path).st_dev == device:
                                seen.append(path.read_text())

            step = replace(
                SHELL,
                args=("/bin/sh", "-c", "echo $WORD"),
                mounts=(SecretFile("/s", b"hush"),),
                secret_env=("WORD=hush",),
            )
            assert sandbox.run(step, root, look).status == 0

    in_build(build)
    assert words == [b"hush\n"] and seen != [] and not any("hush" in text for text in seen)


@both_runtimes
def test_links_in_the_image_do_not_lead_mounts_outside(tmp_path: Path, runtime: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    lower = tmp_path / "lower"
    (lower / "bin").mkdir(parents=True)
    os.link(busybox_root() / "bin/busybox", lower / "bin/sh")
    (lower / "up").symlink_to("../../../../../../../../" + str(outside))
    (lower / "absolute").symlink_to(outside)
    (lower / "etc").symlink_to(outside)
    source = tmp_path / "source"
    source.mkdir()
    mounts = (BindMount(source, "/up/a"), BindMount(source, "/absolute/b"), TmpfsMount("up"))
    outcome = run_step(tmp_path, runtime, replace(SHELL, mounts=mounts), script=":", lower=lower)
    assert outcome.status == 0
    assert list(outside.iterdir()) == [] and outcome.written <= {str(outside)[1:]}


@both_runtimes
def test_impossible_mounts_are_refused(tmp_path: Path, runtime: str) -> None:
    with pytest.raises(UsageError, match="whole root"):
        run_step(tmp_path, runtime, replace(SHELL, mounts=(TmpfsMount("/x/.."),)), script=":")
    missing = BindMount(tmp_path / "missing", "/x")
    with pytest.raises(SandboxError, match="does not exist"):
        run_step(tmp_path, runtime, replace(SHELL, mounts=(missing,)), script=":")
