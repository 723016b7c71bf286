"""Programs of foreign processors run in any root once a handler is registered."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from roots import busybox_root
from sandboxes import RUNTIMES, SHELL, run_step
from shipline.oci import Platform
from shipline.sandbox import register, supported_platforms
from shipline.sandbox.emulation import MACHINES, handler_for, handlers, probe_program

ARM64, AMD64 = Platform("linux", "arm64"), Platform("linux", "amd64")


FOREIGN = ARM64 if Platform.local() != ARM64 else AMD64


@pytest.mark.root
def test_registered_once_it_runs_in_any_root() -> None:
    register(FOREIGN)
    handler = handler_for(FOREIGN)
    assert handler is not None and handler.works_in_any_root
    before = handlers()
    register(FOREIGN)
    assert handlers() == before and FOREIGN in supported_platforms()


@pytest.mark.root
@pytest.mark.parametrize("platform", [AMD64, ARM64], ids=str)
def test_the_probe_of_a_filter_exits_with_0_without_one(tmp_path: Path, platform: Platform) -> None:
    register(platform)
    program = tmp_path / "probe"
    program.write_bytes(probe_program(platform) or b"")
    program.chmod(0o755)
    assert subprocess.run([program]).returncode == 0


@pytest.mark.root
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_arm64_step_sees_an_arm64_machine(tmp_path: Path, runtime: str) -> None:
    register(ARM64)
    script = "uname -m; /bin/echo from a child; exec 3</proc/self/exe; kill -9 $$; exit 4"
    outcome = run_step(tmp_path, runtime, SHELL, script=script, lower=busybox_root("arm64"))
    assert (outcome.status, outcome.out) == (4, "aarch64\nfrom a child\n"), outcome.err
    assert outcome.written <= {"etc"}  # copied up, unchanged


def in_fresh_instance(program: str, path: str = os.environ["PATH"]) -> list[str]:
    """What `program` prints where binfmt_misc is new and empty: one per user namespace."""
    command = 'mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && PATH=$0 exec "$@"'
    namespace = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command, path)
    python = (sys.executable, "-c", _FRESH + textwrap.dedent(program))
    done = subprocess.run([*namespace, *python], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


_FRESH = """
from pathlib import Path
from shipline.errors import SandboxError
from shipline.oci import Platform
from shipline.sandbox import can_execute, register, require_execution
from shipline.sandbox.emulation import BINFMT, MACHINES, handler_for
ARM64 = Platform("linux", "arm64")
def tried(function, platform):
    try:
        function(platform)
    except SandboxError as error:
        print(error, error.hint, sep=" | ")
"""


@pytest.mark.root
def test_every_processor_can_be_registered_from_nothing() -> None:
    program = """
        for name in MACHINES:
            platform = Platform.normal("linux", name)
            before = can_execute(platform)
            register(platform)
            print(name, before, can_execute(platform))
    """
    lines = in_fresh_instance(program)
    assert len(lines) == len(MACHINES) and all(line.endswith(" True") for line in lines)
    assert sum(" False " in line for line in lines) >= 5


@pytest.mark.root
def test_a_handler_without_flag_f_is_told_and_left_alone() -> None:
    program = r"""
        magic = "".join(f"\\x{byte:02x}" for byte in MACHINES["arm64"].header())
        (BINFMT / "register").write_text(f":mine:M::{magic}::/usr/bin/qemu-aarch64-static:")
        tried(require_execution, ARM64)
        register(ARM64)
        print(handler_for(ARM64).name, can_execute(ARM64), (BINFMT / "mine").exists())
    """
    complaint, *rest = in_fresh_instance(program)
    assert "without flag F" in complaint and "builder bootstrap" in complaint
    assert rest == ["qemu-aarch64 True True"]


@pytest.mark.root
def test_bootstrap_registers_what_is_asked_for_and_prints_what_runs() -> None:
    program = """
        from shipline.cli.program import run
        print(run(["builder", "bootstrap", "--platform", "linux/arm64"]))
        print(can_execute(ARM64))
    """
    *runs, status, executes = in_fresh_instance(program)
    assert "linux/arm64" in runs and (status, executes) == ("0", "True")


@pytest.mark.root
def test_what_changes_the_host_says_how_to_undo_it() -> None:
    """As root of the machine sees it: there a handler is everybody's."""
    program = """
        import subprocess
        from shipline.sandbox import kernel
        kernel.in_user_namespace = lambda: False
        undo = register(ARM64)
        print(undo)
        print((BINFMT / "qemu-aarch64").exists(), register(ARM64))
        subprocess.run(undo, shell=True, check=True)
        print((BINFMT / "qemu-aarch64").exists())
    """
    undo, *rest = in_fresh_instance(program)
    assert undo == "echo -1 > /proc/sys/fs/binfmt_misc/qemu-aarch64"
    assert rest == ["True ", "False"]


@pytest.mark.root
def test_a_registered_emulator_is_said_once_by_the_build() -> None:
    program = """
        from shipline.build.running import ensure_platform
        from shipline.events import Stream, Warned
        from shipline.sandbox import kernel
        kernel.in_user_namespace = lambda: False
        seen = []
        with Stream(seen.append) as stream, stream.step("RUN") as step:
            ensure_platform(ARM64, step)
            ensure_platform(ARM64, step)
        for one in seen:
            if isinstance(one, Warned):
                print(one.message, one.hint)
    """
    (line,) = in_fresh_instance(program)
    assert "linux/arm64" in line and "echo -1 > " in line


@pytest.mark.root
def test_without_an_emulator_the_error_names_the_cure(tmp_path: Path) -> None:
    program = "tried(require_execution, ARM64)"
    (line,) = in_fresh_instance(program, str(tmp_path))
    assert "does not execute linux/arm64" in line and "apt-get install qemu-user-static" in line
    assert "tonistiigi/binfmt --install qemu-aarch64" in line
